"""The experiments of the paper, Gandikota et al. 2023 (arXiv:2303.07345), and of two later protocols, a command each.

    cd examples && python -m reproduce nudity MODEL --train -o nudity

prints the paper's figures beside those that are measured. `docs/reproduce.md` says what each costs.
"""
