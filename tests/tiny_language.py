"""Pipelines of the real classes at small size whose text encoders are language models, with random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from tiny import louder, seeded, t5_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
_CHAT = (
    "{% for message in messages %}<|im_start|> {{ message.role }} {% if message.content is string %}"
    "{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)


@cache
def language_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the small model's vocabulary, written as T5 writes them, and a template of a chat."""
    words = sorted(token for token in t5_tokenizer().get_vocab() if token not in _SPECIAL)
    tokens = Tokenizer(WordLevel({token: i for i, token in enumerate([*_SPECIAL, *words])}, unk_token="<unk>"))
    tokens.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace()])
    tokens.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=2048,
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


def sizes(layers: int = 1, width: int = 32) -> dict[str, Any]:
    """The options of a small language model that all kinds have."""
    return {
        "vocab_size": len(language_tokenizer()),
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }


@seeded
def tiny_sana(scheduler: Any = None) -> SanaPipeline:
    """Sana, with pixels of 4 x 4 to a latent: the pipeline asks for multiples of 32 pixels."""
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=8,
    ).eval()
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
    ).eval()
    return SanaPipeline(
        transformer=louder(transformer, ("attn2.to_v", "attn2.to_out.0.weight"), 4),
        vae=vae,
        text_encoder=Gemma2Model(Gemma2Config(head_dim=16, **sizes())).eval(),
        tokenizer=language_tokenizer(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
