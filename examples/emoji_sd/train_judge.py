"""Train the judge on rendered images, some of them blurred or noisy. `python -m emoji_sd.train_judge`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import save_file
from torch.nn import functional

from .data import make, to_model
from .judge import Judge
from .loop import Batch, arguments, images, train


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print the accuracy on augmentations that were not trained on, save."""
    options = arguments(__doc__, "judge", argv)
    data = images(options)
    torch.manual_seed(options.seed)
    judge = Judge(options.preset).to(memory_format=torch.channels_last)

    def batch(generator: torch.Generator) -> Batch:
        index = torch.randint(len(data["pictures"]), (options.batch,), generator=generator)
        x = to_model(data["pictures"][index])
        blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        amount = torch.rand((options.batch, 1, 1, 1), generator=generator).mul(1.6).sub(0.6).clamp(min=0)
        x = torch.lerp(x, blurred, amount)
        noise = torch.rand((options.batch, 1, 1, 1), generator=generator) * 0.15
        x = x + noise * torch.randn(x.shape, generator=generator)
        wanted = [data[kind][index].to(options.device) for kind in ("objects", "styles")]
        return x.contiguous(memory_format=torch.channels_last).to(options.device), *wanted

    def loss(x: torch.Tensor, objects: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        of_objects, of_styles = judge.logits(x)
        return functional.cross_entropy(of_objects, objects) + functional.cross_entropy(of_styles, styles)

    train("judge", judge, batch, loss, options)
    fresh = make(options.preset.vocabulary, 4, options.seed + 1, options.cache)
    judge.to("cpu")
    seen = judge(to_model(fresh["pictures"]))
    print("object accuracy", (seen.objects.argmax(1) == fresh["objects"]).float().mean().item())
    print("style accuracy", (seen.styles.argmax(1) == fresh["styles"]).float().mean().item())
    state = {k: v.half().contiguous() for k, v in judge.state_dict().items()}
    options.output.mkdir(parents=True, exist_ok=True)
    save_file(state, options.output / "judge.safetensors")


if __name__ == "__main__":
    main()
