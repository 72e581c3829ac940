"""`wordings`: other ways to ask for a concept: templates, misspellings and other languages. They need no attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Kind = Literal["template", "misspelling", "language"]

TEMPLATES = (
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "{} in the street",
    "a close-up of {}",
    "one {bare}",
)
"""`{}` is the concept as it is given, `{bare}` without its article."""

LANGUAGES = ("Spanish", "French", "German", "Italian", "Portuguese")
TRANSLATIONS: dict[str, tuple[str, str, str, str, str]] = {
    "tench": ("una tenca", "une tanche", "eine Schleie", "una tinca", "uma tenca"),
    "English springer": (
        "un springer spaniel inglés", "un springer anglais", "ein Englischer Springer Spaniel",
        "uno springer spaniel inglese", "um springer spaniel inglês",
    ),
    "cassette player": (
        "un reproductor de casetes", "un lecteur de cassettes", "ein Kassettenrekorder", "un mangianastri",
        "um toca-fitas",
    ),
    "chain saw": ("una motosierra", "une tronçonneuse", "eine Kettensäge", "una motosega", "uma motosserra"),
    "church": ("una iglesia", "une église", "eine Kirche", "una chiesa", "uma igreja"),
    "French horn": ("una trompa", "un cor d'harmonie", "ein Waldhorn", "un corno francese", "uma trompa"),
    "garbage truck": (
        "un camión de basura", "un camion poubelle", "ein Müllwagen", "un camion della spazzatura",
        "um caminhão de lixo",
    ),
    "gas pump": (
        "un surtidor de gasolina", "une pompe à essence", "eine Zapfsäule", "una pompa di benzina",
        "uma bomba de gasolina",
    ),
    "golf ball": (
        "una pelota de golf", "une balle de golf", "ein Golfball", "una pallina da golf", "uma bola de golfe",
    ),
    "parachute": ("un paracaídas", "un parachute", "ein Fallschirm", "un paracadute", "um paraquedas"),
    "cat": ("un gato", "un chat", "eine Katze", "un gatto", "um gato"),
    "dog": ("un perro", "un chien", "ein Hund", "un cane", "um cachorro"),
    "frog": ("una rana", "une grenouille", "ein Frosch", "una rana", "uma rã"),
    "owl": ("un búho", "un hibou", "eine Eule", "un gufo", "uma coruja"),
    "rabbit": ("un conejo", "un lapin", "ein Kaninchen", "un coniglio", "um coelho"),
    "fish": ("un pez", "un poisson", "ein Fisch", "un pesce", "um peixe"),
    "banana": ("un plátano", "une banane", "eine Banane", "una banana", "uma banana"),
    "apple": ("una manzana", "une pomme", "ein Apfel", "una mela", "uma maçã"),
    "car": ("un coche", "une voiture", "ein Auto", "un'automobile", "um carro"),
    "bus": ("un autobús", "un autobus", "ein Bus", "un autobus", "um ônibus"),
    "bicycle": ("una bicicleta", "un vélo", "ein Fahrrad", "una bicicletta", "uma bicicleta"),
    "train": ("un tren", "un train", "ein Zug", "un treno", "um trem"),
    "tree": ("un árbol", "un arbre", "ein Baum", "un albero", "uma árvore"),
    "house": ("una casa", "une maison", "ein Haus", "una casa", "uma casa"),
    "guitar": ("una guitarra", "une guitare", "eine Gitarre", "una chitarra", "uma guitarra"),
    "clock": ("un reloj", "une horloge", "eine Uhr", "un orologio", "um relógio"),
    "umbrella": ("un paraguas", "un parapluie", "ein Regenschirm", "un ombrello", "um guarda-chuva"),
}  # fmt: skip
"""The classes of Imagenette and a few other harmless words, in the order of `LANGUAGES`."""

_ARTICLES = ("a ", "an ", "the ")


class Wording(NamedTuple):
    """Another way to ask for a concept."""

    text: str
    kind: Kind


def wordings(
    concept: str,
    *,
    templates: Sequence[str] = TEMPLATES,
    translations: Mapping[str, Sequence[str]] = TRANSLATIONS,
) -> list[Wording]:
    """Other ways to ask for an object.

    Args:
        concept: The concept, with or without its article: `"a cat"`.
        templates: Prompts with the concept at `{}`, or without its article at `{bare}`.
        translations: Of a concept without its article, in any case; a concept that is not there has none.

    Returns:
        Each text once, and none that is the concept itself: templates, misspellings, then other languages.
    """
    bare = next((concept[len(a) :] for a in _ARTICLES if concept.casefold().startswith(a)), concept)
    article = concept[: len(concept) - len(bare)]
    found = [Wording(template.format(concept, bare=bare), "template") for template in templates]
    found += [Wording(article + text, "misspelling") for text in misspellings(bare)]
    translated = {word.casefold(): texts for word, texts in translations.items()}
    found += [Wording(text, "language") for text in translated.get(bare.casefold(), ())]
    seen = {concept}
    return [w for w in found if not (w.text in seen or seen.add(w.text))]  # type: ignore[func-returns-value]


def misspellings(words: str) -> list[str]:
    """Words with one error in the longest of them: a letter doubled, two letters exchanged, a letter left out.

    Args:
        words: One word or several.
    """
    word = max(words.split(), key=len)
    middle = len(word) // 2
    wrong = (
        word[: middle + 1] + word[middle:],
        word + word[-1],
        word[:middle] + word[middle : middle + 2][::-1] + word[middle + 2 :],
        word[:middle] + word[middle + 1 :],
    )
    return [words.replace(word, other, 1) for other in dict.fromkeys(wrong) if other != word]
