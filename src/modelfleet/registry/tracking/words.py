"""Names for what nobody named: `calm-heron-417`."""

from __future__ import annotations

import random

_ADJECTIVES = (
    "able amber ample ashen bold brave breezy brief bright brisk calm candid careful cheerful "
    "clear clever cool crisp curious dapper daring deep deft eager early earnest easy even fair "
    "fearless fine firm fleet fluent fond frank free fresh frosty gentle glad golden grand green "
    "handy happy hardy hazel honest humble keen kind late lively loyal lucid lucky mellow merry "
    "mild modest neat nimble noble open patient plain polite proud quick quiet rapid ready rosy "
    "round serene sharp shiny silent silver sincere smooth snowy solid sound spry steady stout "
    "sturdy sunny swift tall tidy tender true upbeat vivid warm wise witty young zesty"
).split()
_NOUNS = (
    "acorn alder anchor ant aspen badger basil bay beaver beech birch bison brook buzzard canyon "
    "cedar cheetah cliff clover condor coral crane creek cricket curlew dale deer delta dolphin "
    "dove dune eagle elk elm ember falcon fern finch fjord fox gale gecko glade goose grove gull "
    "hare harbor hawk hazel heron hill ibis iris island ivy jay kestrel kite lake lark laurel "
    "lemur linden lion lynx maple marlin marsh meadow moss moth newt oak oriole otter owl panda "
    "pebble pelican pine plover pond poplar puffin quail raven reef ridge river robin rowan "
    "salmon seal sedge shrew snipe sparrow spruce stork swan tern thistle tiger trout vale walrus "
    "willow wren yak zebra"
).split()


def random_name() -> str:
    chosen = random.SystemRandom()
    return f"{chosen.choice(_ADJECTIVES)}-{chosen.choice(_NOUNS)}-{chosen.randrange(1000)}"
