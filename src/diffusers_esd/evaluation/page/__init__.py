"""A page of reports: one HTML file with pictures, bars and curves, readable on a phone and in the dark."""
