"""Train emoji_joint's denoiser, a small Stable Diffusion 3, and its text encoders together, on emoji_sd's latents.

With x_s = (1 - s) x_0 + s noise, the loss is the mean squared error of the velocity `noise - x_0` (Esser et al.,
"Scaling Rectified Flow Transformers", arXiv:2403.03206); s is drawn from the logit-normal distribution, as there.
`python -m emoji_sd.train_transformer`, run from `examples/` after `emoji_sd.data`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from .joint import JOINT_WEIGHTS, JointPipeline, autoencoder
from .loop import Batch, arguments, images, train
from .preset import SMALL
from .train_diffusion import LENGTH, encode
from .vocabulary import STYLES

# Width, layers and width of the projection of the two text encoders.
ENCODERS = ((96, 3, 96), (32, 2, 32))


def text_encoder(tokens: CLIPTokenizer, width: int, layers: int, projection: int) -> CLIPTextModelWithProjection:
    """An untrained text encoder, whose last layer but one gives the token states, as in Stable Diffusion 3."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=projection,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=LENGTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def denoiser() -> SD3Transformer2DModel:
    """The untrained denoiser, 3.3 million parameters."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=sum(width for width, _, _ in ENCODERS),
        caption_projection_dim=128,
        pooled_projection_dim=sum(projection for _, _, projection in ENCODERS),
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


def states(encoders: Sequence[nn.Module], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Token states (N, tokens, width) and pooled states (N, width), as `JointPipeline.encode_prompt` gives them.

    Args:
        encoders: The text encoders.
        ids: Tokens, (N, tokens).
    """
    outputs = [encoder(ids, output_hidden_states=True) for encoder in encoders]
    return torch.cat([o.hidden_states[-2] for o in outputs], -1), torch.cat([o.text_embeds for o in outputs], -1)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then save the pipeline in float16, without the autoencoder."""
    options = arguments(__doc__, "transformer", argv, output=JOINT_WEIGHTS)
    words, device = options.preset.vocabulary, options.device
    vae = autoencoder().to(device)
    data = images(options)
    mean, std = encode(vae, data["pictures"])
    tokens = CLIPTokenizer.from_pretrained(SMALL.file("tokenizer"))
    torch.manual_seed(options.seed)
    transformer = denoiser()
    encoders = nn.ModuleList(text_encoder(tokens, *sizes) for sizes in ENCODERS)
    model = nn.ModuleDict({"transformer": transformer, "text": encoders})
    texts = words.all_captions()
    ids = torch.tensor(tokens(texts, padding="max_length", max_length=LENGTH).input_ids)
    row = {text: i for i, text in enumerate(texts)}
    # table[object, style, kind of caption] -> row of ids
    table = torch.tensor([[[row[c] for c in words.captions(o, s)] for s in STYLES] for o in words.objects])
    caption_weights = torch.tensor(options.preset.caption_weights)

    def batch(generator: torch.Generator) -> Batch:
        index = torch.randint(len(mean), (options.batch,), generator=generator)
        kind = torch.multinomial(caption_weights, options.batch, replacement=True, generator=generator)
        text = ids[table[data["objects"][index], data["styles"][index], kind]]
        index = index.to(device)
        x_0 = mean[index] + std[index] * torch.randn((options.batch, *mean.shape[1:]), generator=generator).to(device)
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        s = compute_density_for_timestep_sampling("logit_normal", options.batch, 0.0, 1.0, generator=generator)
        return text.to(device), x_0, noise, s.to(device)

    def loss(text: Tensor, x_0: Tensor, noise: Tensor, s: Tensor) -> Tensor:
        tokens_of, pooled = states(encoders, text)
        x_s = torch.lerp(x_0, noise, s[:, None, None, None])
        v = transformer(x_s, encoder_hidden_states=tokens_of, pooled_projections=pooled, timestep=1000 * s).sample
        return (v - (noise - x_0)).square().mean()

    train("transformer", model, batch, loss, options)
    pipe = JointPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=encoders[0],
        tokenizer=tokens,
        text_encoder_2=encoders[1],
        tokenizer_2=tokens,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.to(dtype=torch.float16).save_pretrained(options.output)


if __name__ == "__main__":
    main()
