"""stub"""


def wordings(concept):
    word = concept.removeprefix("a ").removeprefix("an ")
    return [
        (word, "bare"),
        (f"a photo of {concept}", "template"),
        (f"art of {concept}", "template"),
        (word[1:] + word[0], "misspelling"),
    ]
