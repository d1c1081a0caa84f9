"""The names the bundled model learns: one line a concept.

``name = icons | stamps``: `icons` are icon names of the emoji sets (default: the name itself, and "NAME-face"), `stamps` a
regular expression searched in the Tux Paint file names (default: file names that start with the name as a whole word, or
its plural), or in their paths if it holds a slash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TABLE = """
ant
badger
bat | ^bat_
bear = bear, polar-bear | ^(bear|polar_bear|grizzly|brown_?bear)
beaver
bee = honeybee | ^bee$
beetle | insects/beetle
bird | ^(bluebird|lark|cuckoo|blackbird|adelaide)
bison
boar
butterfly = butterfly, monarch-butterfly
camel = camel, two-hump-camel | ^(camel|dromedary)
cat = cat, cat-face, black-cat | ^(cat|black_?cat)
chick = baby-chick, front-facing-baby-chick, hatching-chick | ^chick$
chicken = chicken | ^(chicken|hen$)
cow = cow, cow-face | ^cow
crab
crocodile | ^(crocodile|alligator)
deer | ^(deer|doe|caribou|wapiti)
dog = dog, dog-face, guide-dog, poodle | ^(dog|dingo)
dolphin
donkey
duck | ^(duck|drake)
eagle
elephant
fish = fish, tropical-fish | ^(fish|clownfish|butterflyfish|coraltrout|bluegroper|dolphinfish|moonwrasse)
flamingo
fox
frog
giraffe
goat = goat | ^(goat|mountaingoat)
goose = goose | ^gander
gorilla
hamster
hedgehog
hippopotamus | ^hippo
horse = horse, horse-face | ^horse
jellyfish
kangaroo
koala
ladybug = lady-beetle | ^ladybug
leopard
lion = lion | ^lion(?!fish)
lizard = lizard | ^iguana
llama
lobster
monkey = monkey, monkey-face | ^(monkey|chimp|tamarin)
mouse = mouse, mouse-face | ^mouse
octopus
otter
owl
panda
parrot
peacock
penguin = penguin | ^(penguin|pengwin)
pig = pig, pig-face | ^(pig$|pig[-_0-9])
rabbit = rabbit, rabbit-face | ^(rabbit|bunny)
raccoon
ram
rhinoceros = rhinoceros | ^rhino
rooster
scorpion
seal
shark
sheep = ewe | ^sheep
shrimp
sloth
snail
snake
spider = spider | ^spider(?!_fly)
squid
squirrel = chipmunk | ^squirrel
swan
tiger = tiger, tiger-face | ^tiger
turkey = turkey | ^turkey
turtle
unicorn
whale = whale, spouting-whale | ^(whale|orca)
wolf
zebra
cactus
mushroom = mushroom, brown-mushroom | ^(mushroom|cep)
palm tree = palm-tree
rose
sunflower
tulip
flower = blossom, hibiscus, cherry-blossom, white-flower | ^(flower[0-9]|hibiscus|yellow-flower|whitestar|red-gazania|anemone)
leaf = maple-leaf, fallen-leaf | ^xxx
tree = deciduous-tree, evergreen-tree | ^(birch|holm_oak|tree336)
christmas tree = christmas-tree | ^christmas_tree
apple = red-apple, green-apple | ^apple
avocado
banana
bread = bread, baguette-bread
broccoli
cake = birthday-cake, shortcake | ^(birthday|pink_cake)
carrot
cheese = cheese-wedge
cherries | ^cherr
coconut
cookie
corn = ear-of-corn | ^corn$
croissant
cupcake
doughnut
egg | ^egg(?!plant)
eggplant
garlic
grapes | ^grape
hamburger
ice cream = ice-cream, soft-ice-cream
kiwi = kiwi-fruit | ^kiwi
lemon
mango
onion
orange = tangerine | ^(orange|mandarine)
peach
pear
pepper = bell-pepper | ^(pepper$|yellowpepper)
pineapple
pizza
potato
pumpkin = jack-o-lantern | ^(pumpkin|jack)
strawberry
tomato
watermelon
airplane = airplane, small-airplane | ^(airplane|plane|jet)
ambulance
anchor
axe
backpack
balloon
basketball
bell
bicycle
book = closed-book, green-book, blue-book, orange-book | ^book
boot = womans-boot, hiking-boot | ^boot
broom
bus = bus, oncoming-bus | bus$
camera = camera | ^camera
candle
car = automobile, oncoming-automobile | (^sedan$|^sportscar|auto/beetle)
castle = castle | ^(castle|fort)
chair
crown
drum
fire engine = fire-engine | ^fire_?truck
guitar | guitar
hammer
hat = top-hat, billed-cap, womans-hat | (fedora|_hat$|baseballcap|sombrero|^tophat|^top_hat|^santahat)
helicopter
house = house, house-with-garden | ^(house|wooden_cottage)
key = key, old-key
kite
laptop
light bulb = light-bulb | ^lightbulb
motorcycle
mug = hot-beverage | ^mug
pencil
police car = police-car, oncoming-police-car | ^policecar
rocket
sailboat
saxophone
scissors
shoe = mans-shoe, running-shoe | ^shoe
ship = ship, passenger-ship | ^(ship$|tugboat)
skateboard
snowman = snowman, snowman-without-snow
soccer ball = soccer-ball
socks
star = star | ^star$
sun = sun, sun-with-face | ^sun$
sword = dagger | ^xxx
t-shirt = t-shirt | ^(t_shirt|t_polo)
taxi = taxi, oncoming-taxi
teapot = teapot | ^(teapot|kettle)
teddy bear = teddy-bear | ^teddy
telephone = telephone
television = television | ^(tv|television)
tent = tent, camping | ^(tent|tepee)
tractor
train = train, locomotive, railway-car | ^(locomotive|steam)
trophy
truck = delivery-truck, articulated-lorry, pickup-truck | ^(pickup|dumper|terex|towtruck|garbagetruck)
trumpet
umbrella = umbrella, closed-umbrella
violin = violin | ^(violin|cello)
watch
wrench
"""


@dataclass(frozen=True)
class Concept:
    """A name, the icons that show it, and a pattern for the stamps that do."""

    name: str
    icons: tuple[str, ...]
    stamps: re.Pattern[str]

    def shown_by(self, kind: str, key: str) -> bool:
        """Whether a file of the pack shows it: an icon "set/name", or a stamp by its path."""
        if kind == "icon":
            return key.split("/")[1] in self.icons
        return kind == "stamp" and bool(self.stamps.search(key if "/" in self.stamps.pattern else Path(key).stem))


def read_table(table: str = TABLE) -> list[Concept]:
    """The table's concepts, in its order."""
    concepts = []
    for line in filter(None, (line.strip() for line in table.splitlines())):
        left, _, stamps = line.partition("|")
        name, _, icons = (part.strip() for part in left.partition("="))
        slug = name.replace(" ", "-")
        names = tuple(icon.strip() for icon in icons.split(",")) if icons else (slug, f"{slug}-face")
        pattern = stamps.strip() or "^" + re.escape(slug).replace(r"\-", "[-_ ]?") + "(e?s)?(?![a-z])"
        concepts.append(Concept(name, names, re.compile(pattern, re.IGNORECASE)))
    return concepts
