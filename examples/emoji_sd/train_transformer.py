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
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .joint import JOINT_WEIGHTS, JointPipeline, autoencoder
from .latents import Latents
from .loop import Batch, arguments, train
from .preset import SMALL
from .text import text_encoder

# Width and layers of the two text encoders.
ENCODERS = ((96, 3), (32, 2))


def denoiser() -> SD3Transformer2DModel:
    """The untrained denoiser, 3.5 million parameters."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=sum(width for width, _ in ENCODERS),
        caption_projection_dim=128,
        pooled_projection_dim=sum(width for width, _ in ENCODERS),
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
    tokens = CLIPTokenizer.from_pretrained(SMALL.file("tokenizer"))
    latents = Latents(options, autoencoder(), tokens)
    torch.manual_seed(options.seed)
    transformer = denoiser()
    encoders = nn.ModuleList(text_encoder(tokens, *sizes, CLIPTextModelWithProjection) for sizes in ENCODERS)
    model = nn.ModuleDict({"transformer": transformer, "text": encoders})

    def batch(generator: torch.Generator) -> Batch:
        text, x_0, noise = latents.batch(generator)
        s = compute_density_for_timestep_sampling("logit_normal", len(x_0), 0.0, 1.0, generator=generator)
        return text, x_0, noise, s.to(x_0.device)

    def loss(text: Tensor, x_0: Tensor, noise: Tensor, s: Tensor) -> Tensor:
        token_states, pooled = states(encoders, text)
        x_s = torch.lerp(x_0, noise, s[:, None, None, None])
        v = transformer(x_s, encoder_hidden_states=token_states, pooled_projections=pooled, timestep=1000 * s).sample
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
