"""Attacks: do an erased model's weights still draw a concept?"""
