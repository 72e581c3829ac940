"""What the preset `large` can draw: two hundred objects in twenty classes, each with one or two synonyms.

Every word is a single word and means one object or one class, so that a caption names one thing. A synonym is a word
that captions use in place of the object's own; near words are used where English has no exact one.
"""

from __future__ import annotations

from .vocabulary import Vocabulary

# Class -> object -> the name of its icon, and its synonyms.
_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "animal": {
        "cat": ("cat-face", "kitty", "feline"), "dog": ("dog-face", "puppy", "hound"),
        "pig": ("pig-face", "hog", "swine"), "rabbit": ("rabbit-face", "bunny", "hare"),
        "mouse": ("mouse-face", "rodent"), "cow": ("cow-face", "heifer"), "sheep": ("ewe", "lamb"),
        "horse": ("horse-face", "pony", "stallion"), "elephant": ("elephant", "tusker"), "lion": ("lion", "lioness"),
        "tiger": ("tiger-face", "tigress"), "monkey": ("monkey-face", "ape", "chimp"),
        "squirrel": ("chipmunk", "chipmunk"), "frog": ("frog", "toad"), "turtle": ("turtle", "tortoise"),
        "snake": ("snake", "serpent", "viper"), "crocodile": ("crocodile", "alligator"),
        "rhinoceros": ("rhinoceros", "rhino"), "fox": ("fox", "vixen"),
    },
    "bird": {
        "owl": ("owl", "owlet"), "duck": ("duck", "mallard", "drake"), "eagle": ("eagle", "hawk", "falcon"),
        "hen": ("chicken", "chicken"), "rooster": ("rooster", "cockerel"), "turkey": ("turkey", "gobbler"),
        "dove": ("dove", "pigeon"), "chick": ("front-facing-baby-chick", "hatchling"),
    },
    "sealife": {
        "fish": ("tropical-fish", "angelfish"), "blowfish": ("blowfish", "pufferfish"),
        "shark": ("shark", "hammerhead"), "whale": ("spouting-whale", "orca"), "dolphin": ("dolphin", "porpoise"),
        "octopus": ("octopus", "kraken"), "shrimp": ("shrimp", "prawn"), "shell": ("spiral-shell", "seashell", "conch"),
    },
    "bug": {
        "butterfly": ("butterfly", "monarch"), "bee": ("honeybee", "honeybee", "bumblebee"), "ant": ("ant", "termite"),
        "ladybug": ("lady-beetle", "ladybird", "beetle"), "caterpillar": ("bug", "larva"),
        "spider": ("spider", "tarantula"), "snail": ("snail", "escargot"),
    },
    "fruit": {
        "strawberry": ("strawberry", "berry"), "banana": ("banana", "plantain"), "apple": ("red-apple", "pippin"),
        "grapes": ("grapes", "grape"), "orange": ("tangerine", "tangerine", "mandarin"),
        "peach": ("peach", "nectarine", "apricot"), "pineapple": ("pineapple", "ananas"),
        "cherries": ("cherries", "cherry"), "melon": ("melon", "cantaloupe", "honeydew"),
        "kiwi": ("kiwi-fruit", "kiwifruit"),
    },
    "vegetable": {
        "corn": ("ear-of-corn", "maize", "sweetcorn"), "eggplant": ("eggplant", "aubergine"),
        "potato": ("potato", "spud"), "chilli": ("hot-pepper", "chili", "jalapeno"),
        "cucumber": ("cucumber", "gherkin"), "mushroom": ("mushroom", "toadstool"), "peanut": ("peanuts", "groundnut"),
    },
    "food": {
        "pizza": ("pizza", "margherita"), "hamburger": ("hamburger", "burger", "cheeseburger"),
        "hotdog": ("hot-dog", "frankfurter"), "taco": ("taco", "tortilla"), "fries": ("french-fries", "chips"),
        "bread": ("bread", "loaf"), "cheese": ("cheese-wedge", "cheddar"), "spaghetti": ("spaghetti", "pasta"),
        "ramen": ("steaming-bowl", "noodles"), "sushi": ("sushi", "nigiri"), "pancakes": ("pancakes", "flapjacks"),
        "croissant": ("croissant", "pastry"),
    },
    "dessert": {
        "doughnut": ("doughnut", "donut"), "cookie": ("cookie", "biscuit"), "cake": ("birthday-cake", "gateau"),
        "chocolate": ("chocolate-bar", "cocoa"), "candy": ("candy", "bonbon"), "lollipop": ("lollipop", "lolly"),
        "sundae": ("ice-cream", "gelato"), "custard": ("custard", "pudding"),
    },
    "drink": {
        "coffee": ("hot-beverage", "espresso"), "beer": ("beer-mug", "ale", "lager"), "wine": ("wine-glass", "merlot"),
        "cocktail": ("cocktail-glass", "martini"), "tea": ("teacup-without-handle", "matcha"),
        "champagne": ("bottle-with-popping-cork", "prosecco"), "whisky": ("tumbler-glass", "whiskey", "bourbon"),
    },
    "vehicle": {
        "car": ("automobile", "automobile", "sedan"), "bus": ("bus", "coach"), "taxi": ("taxi", "cab"),
        "truck": ("delivery-truck", "lorry"), "firetruck": ("fire-engine", "fireengine"),
        "scooter": ("motor-scooter", "moped"), "bicycle": ("bicycle", "bike", "cycle"),
        "train": ("locomotive", "locomotive"), "tram": ("tram", "streetcar"), "airplane": ("airplane", "plane", "jet"),
        "helicopter": ("helicopter", "chopper"), "rocket": ("rocket", "spaceship"), "sailboat": ("sailboat", "yacht"),
        "canoe": ("canoe", "kayak"), "ship": ("ship", "vessel"),
    },
    "plant": {
        "cactus": ("cactus", "succulent"), "sunflower": ("sunflower", "helianthus"), "tulip": ("tulip", "crocus"),
        "rose": ("rose", "rosebud"), "sakura": ("cherry-blossom", "blossom"),
        "pine": ("evergreen-tree", "fir", "spruce"), "oak": ("deciduous-tree", "elm"),
        "palm": ("palm-tree", "palmtree"), "clover": ("four-leaf-clover", "shamrock"),
        "sprout": ("seedling", "seedling", "sapling"),
    },
    "building": {
        "house": ("house", "home", "cottage"), "church": ("church", "chapel"),
        "castle": ("castle", "fortress", "palace"), "mosque": ("mosque", "masjid"), "hospital": ("hospital", "clinic"),
        "factory": ("factory", "mill"), "temple": ("classical-building", "museum"), "stadium": ("stadium", "arena"),
        "torii": ("shinto-shrine", "shrine"),
    },
    "clothing": {
        "shirt": ("t-shirt", "tshirt", "tee"), "jeans": ("jeans", "trousers", "pants"),
        "dress": ("dress", "gown", "frock"), "sneaker": ("running-shoe", "trainer"),
        "heel": ("high-heeled-shoe", "stiletto"), "tophat": ("top-hat", "hat"), "crown": ("crown", "tiara"),
        "glasses": ("glasses", "spectacles"), "tie": ("necktie", "necktie", "cravat"), "kimono": ("kimono", "robe"),
        "backpack": ("backpack", "rucksack"), "handbag": ("handbag", "tote"),
    },
    "instrument": {
        "guitar": ("guitar", "lute"), "violin": ("violin", "fiddle"), "trumpet": ("trumpet", "bugle"),
        "saxophone": ("saxophone", "sax"), "drum": ("drum", "snare"), "piano": ("musical-keyboard", "pianoforte"),
        "bell": ("bell", "chime"),
    },
    "sport": {
        "football": ("soccer-ball", "soccer"), "basketball": ("basketball", "hoops"),
        "baseball": ("baseball", "softball"), "rugby": ("rugby-football", "rugger"), "bowling": ("bowling", "tenpins"),
        "paddle": ("ping-pong", "pingpong"), "shuttlecock": ("badminton", "badminton", "birdie"),
        "skis": ("skis", "ski"), "trophy": ("trophy", "cup"), "billiards": ("pool-8-ball", "snooker", "pool"),
    },
    "weather": {
        "sun": ("sun", "sunshine"), "moon": ("crescent-moon", "crescent"), "cloud": ("cloud", "overcast"),
        "rain": ("cloud-with-rain", "drizzle"), "snowflake": ("snowflake", "frost"),
        "lightning": ("high-voltage", "thunderbolt"), "rainbow": ("rainbow", "spectrum"),
        "tornado": ("tornado", "twister", "whirlwind"), "snowman": ("snowman", "snow"),
        "umbrella": ("umbrella", "parasol"), "fire": ("fire", "flame", "blaze"),
    },
    "tool": {
        "hammer": ("hammer", "mallet"), "wrench": ("wrench", "spanner"), "scissors": ("scissors", "shears"),
        "knife": ("kitchen-knife", "cleaver"), "key": ("key", "latchkey"), "lock": ("locked", "padlock"),
        "gear": ("gear", "cog"), "bolt": ("nut-and-bolt", "screw"), "paintbrush": ("paintbrush", "brush"),
        "magnifier": ("magnifying-glass-tilted-left", "loupe"), "telescope": ("telescope", "spyglass"),
        "flashlight": ("flashlight", "torch"), "lamp": ("light-bulb", "bulb"),
    },
    "furniture": {
        "bed": ("bed", "bunk"), "sofa": ("couch-and-lamp", "couch"), "chair": ("seat", "seat"),
        "toilet": ("toilet", "lavatory"), "bathtub": ("bathtub", "bath"), "door": ("door", "doorway"),
        "clock": ("mantelpiece-clock", "timepiece"), "painting": ("framed-picture", "picture"),
    },
    "device": {
        "laptop": ("laptop", "notebook"), "computer": ("desktop-computer", "desktop"),
        "smartphone": ("mobile-phone", "cellphone"), "telephone": ("telephone", "landline"),
        "television": ("television", "tv", "telly"), "camera": ("camera", "kodak"), "radio": ("radio", "wireless"),
        "gamepad": ("video-game", "controller"), "watch": ("watch", "wristwatch"),
        "floppy": ("floppy-disk", "diskette"), "stopwatch": ("stopwatch", "timer"),
    },
    "stationery": {
        "book": ("closed-book", "novel"), "envelope": ("envelope", "letter"), "newspaper": ("newspaper", "gazette"),
        "parcel": ("package", "package", "box"), "pencil": ("pencil", "crayon"), "pen": ("pen", "biro"),
        "paperclip": ("paperclip", "clip"), "pushpin": ("pushpin", "thumbtack"),
    },
}  # fmt: skip

_WITHOUT_ARTICLE = frozenset({
    "sealife", "food", "clothing", "weather", "furniture", "stationery", "grapes", "cherries", "corn", "maize",
    "sweetcorn", "fries", "chips", "bread", "cheese", "cheddar", "spaghetti", "pasta", "ramen", "noodles", "sushi",
    "pancakes", "flapjacks", "jeans", "trousers", "pants", "glasses", "spectacles", "soccer", "hoops", "softball",
    "rugby", "rugger", "bowling", "tenpins", "pingpong", "badminton", "skis", "billiards", "snooker", "pool",
    "sunshine", "rain", "drizzle", "frost", "lightning", "snow", "scissors", "shears",
})  # fmt: skip

LARGE_VOCABULARY = Vocabulary(
    classes={kind: tuple(objects) for kind, objects in _TABLE.items()},
    icons={word: entry[0] for objects in _TABLE.values() for word, entry in objects.items()},
    without_article=_WITHOUT_ARTICLE,
    synonyms={word: entry[1:] for objects in _TABLE.values() for word, entry in objects.items()},
)
