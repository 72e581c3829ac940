"""The text side of the models: a tokenizer whose merges are learned from the captions, and small CLIP text encoders.

The tokenizer is a byte-pair encoding of CLIP's kind. Every caption word is one token, and every other word is spelled.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .preset import Preset

LENGTH = 32


def tokenizer(preset: Preset) -> CLIPTokenizer:
    """A CLIP tokenizer over the captions' words."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    corpus = [*preset.vocabulary.all_captions(), *(" ".join(letters) for _ in range(2))]
    # The trainer numbers what it is not given in an order that changes from process to process. A training that is
    # resumed needs the same numbers, so every letter is given, also as the end of a word.
    symbols = [*letters, *(letter + "</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(vocab_size=preset.tokens, end_of_word_suffix="</w>", special_tokens=symbols)
    bpe.train_from_iterator(corpus, trainer)
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = bpe.model.save(folder)
        vocab = json.loads(Path(vocab_file).read_text())
        lines = [line for line in Path(merges_file).read_text().splitlines() if not line.startswith("#")]
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    merges = [tuple(line.split(" ")) for line in lines]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH, pad_token="<|endoftext|>")


def text_encoder(
    tokens: CLIPTokenizer,
    width: int,
    layers: int,
    kind: type[CLIPTextModel] | type[CLIPTextModelWithProjection] = CLIPTextModel,
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """An untrained text encoder.

    Args:
        tokens: The tokenizer.
        width: Of the states and of the projection, a multiple of 32.
        layers: Number of layers.
        kind: The class.
    """
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=LENGTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )
