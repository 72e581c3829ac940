"""Pipelines of the real classes at small size whose text encoders are language models, with random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from tiny import BETAS, autoencoder, louder, seeded, t5_tokenizer, tiny_unet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch.nn import init
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    UMT5Config,
    UMT5EncoderModel,
)

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


def chat_start(template: str) -> int:
    """Tokens of a template before the prompt."""
    return len(language_tokenizer()(template.partition("{}")[0], add_special_tokens=False).input_ids)


@seeded
def tiny_qwen_image(**scheduler: Any) -> QwenImagePipeline:
    """Qwen-Image."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()
    config = Qwen2_5_VLConfig(
        text_config={"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}, **sizes()},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
    )
    pipe = QwenImagePipeline(
        transformer=louder(transformer, ("attn.add_v_proj.weight", "attn.to_out.0.weight"), 10),
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=language_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            **{"use_dynamic_shifting": True, "max_shift": 0.9, "shift_terminal": 0.02, **scheduler}
        ),
    )
    # The published tokenizer needs 34 tokens for what precedes the prompt.
    pipe.prompt_template_encode_start_idx = chat_start(pipe.prompt_template_encode)
    pipe.default_sample_size = 8
    return pipe


@seeded
def tiny_z_image() -> ZImagePipeline:
    """Z-Image."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[640, 16, 16],
    ).eval()
    return ZImagePipeline(
        transformer=louder(transformer, ("to_v", "to_out.0.weight"), 4),
        vae=autoencoder(),
        text_encoder=Qwen3Model(Qwen3Config(head_dim=16, **sizes(2))).eval(),
        tokenizer=language_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux_2_parts(guidance_embeds: bool) -> dict[str, Any]:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    ).eval()
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    return {
        "transformer": louder(transformer, ("attn.add_v_proj.weight", "attn.to_out.0.weight"), 10),
        "vae": vae,
        "tokenizer": language_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


@seeded
def tiny_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    """FLUX.2 Klein; the pipeline reads 27 layers of its language model."""
    text_encoder = Qwen3ForCausalLM(Qwen3Config(head_dim=8, **sizes(27, 16))).eval()
    pipe = Flux2KleinPipeline(
        text_encoder=louder(text_encoder, ("embed_tokens",), 50),
        is_distilled=is_distilled,
        **_flux_2_parts(guidance_embeds=False),
    )
    pipe.default_sample_size = 8
    return pipe


@seeded
def tiny_flux_2() -> Flux2Pipeline:
    """FLUX.2, which reads 30 layers of its language model."""
    config = Mistral3Config(
        text_config={"model_type": "mistral", "head_dim": 8, **sizes(30, 16)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
        },
    )
    text_encoder = Mistral3ForConditionalGeneration(config).eval()
    pipe = Flux2Pipeline(
        text_encoder=louder(text_encoder, ("embed_tokens",), 50), **_flux_2_parts(guidance_embeds=True)
    )
    pipe.default_sample_size = 8
    return pipe


@seeded
def tiny_wan(expand_timesteps: bool = False) -> WanPipeline:
    """Wan, with few latent frames in a video: 16 frames to one."""
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    ).eval()
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=40,
        scale_factor_spatial=2,
    ).eval()
    text = UMT5Config(vocab_size=len(language_tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return WanPipeline(
        transformer=louder(transformer, ("attn2.to_v.weight", "attn2.to_out.0.weight"), 4),
        vae=vae,
        text_encoder=louder(UMT5EncoderModel(text), ("shared",), 5).eval(),
        tokenizer=language_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        expand_timesteps=expand_timesteps,
    )


class KolorsTokenizer(PreTrainedTokenizerFast):
    """A tokenizer that also gives positions, as the published one does, which needs sentencepiece."""

    def __call__(self, *texts: Any, **options: Any) -> Any:
        encoded = super().__call__(*texts, **options)
        if options.get("return_tensors"):
            encoded["position_ids"] = (encoded["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        return encoded


@seeded
def tiny_kolors() -> KolorsPipeline:
    """Kolors with its Euler scheduler."""
    unet = tiny_unet(
        cross_attention_dim=32,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        use_linear_projection=True,
    )
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=len(language_tokenizer()),
        hidden_size=32,
        ffn_hidden_size=32,
        kv_channels=16,
        num_attention_heads=2,
        seq_length=256,
        original_rope=True,
    )
    tokens, text_encoder = language_tokenizer(), ChatGLMModel(config, empty_init=False).eval()
    for parameter in text_encoder.parameters():  # some are made without values
        init.normal_(parameter, std=0.3)
    return KolorsPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=KolorsTokenizer(
            tokenizer_object=tokens.backend_tokenizer,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            padding_side="left",
            model_max_length=256,
        ),
        unet=louder(unet, ("attn2.to_v", "attn2.to_out.0.weight"), 4),
        scheduler=EulerDiscreteScheduler(**{**BETAS, "beta_end": 0.014, "num_train_timesteps": 1100}),
    )
