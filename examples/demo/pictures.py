"""Pictures of thirty nameable concepts, drawn by code: a data set in which each class is one known thing.

A concept is a signed distance (negative inside, in units of its radius) at coordinates u (right) and v (down).
"""

import numpy as np
from PIL import Image
from tqdm import tqdm

SIZE = 64  # pixels


def disc(u, v, x=0.0, y=0.0, radius=1.0):
    return np.hypot(u - x, v - y) - radius


def box(u, v, centre, width, height):
    return np.maximum(np.abs(u - centre[0]) - width, np.abs(v - centre[1]) - height)


def line(u, v, start, end, width):
    (x0, y0), (x1, y1) = start, end
    along = ((u - x0) * (x1 - x0) + (v - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
    along = np.clip(along, 0, 1)
    return np.hypot(u - x0 - along * (x1 - x0), v - y0 - along * (y1 - y0)) - width


def polygon(u, v, *corners):
    distance, inside = np.full_like(u, np.inf), np.zeros(u.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        distance = np.minimum(distance, line(u, v, (x0, y0), (x1, y1), 0.0))
        if y0 != y1:
            inside ^= ((y0 > v) != (y1 > v)) & (u < x0 + (v - y0) / (y1 - y0) * (x1 - x0))
    return np.where(inside, -distance, distance)


def either(*distances):
    return np.minimum.reduce(distances)


def both(*distances):
    return np.maximum.reduce(distances)


def outline(distance, width):
    return np.abs(distance) - width


def cell(t, period):
    """Distance from the middle of the nearest period, signed."""
    return (t + period / 2) % period - period / 2


def band(t, period):
    """Every other half period."""
    return np.abs(cell(t, period)) - period / 4


def regular(corners, inner=1.0):
    """Corners of a star (``inner`` below 1 for every other one) that begins at the top."""
    angles = np.arange(corners) * 2 * np.pi / corners
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return [(r * np.sin(a), -r * np.cos(a)) for r, a in zip(radii, angles, strict=True)]


def bricks(u, v):
    row = np.round(v / 0.42)
    return both(np.abs(cell(v, 0.42)) - 0.16, np.abs(cell(u + 0.36 * (row % 2), 0.72)) - 0.31)


def checker(u, v):
    across, down = band(u, 0.8), band(v, 0.8)
    return both(either(across, down), -both(across, down))


def polar(u, v):
    return np.hypot(u, v), np.arctan2(v, u)


def spiral(u, v):
    radius, angle = polar(u, v)
    return band(radius - 0.42 * angle / (2 * np.pi), 0.42)


def sunburst(u, v):
    radius, angle = polar(u, v)
    return both(-radius * np.sin(8 * angle) / 8, 0.15 - radius)


def flower(u, v):
    radius, angle = polar(u, v)
    return both(radius - 0.68 - 0.3 * np.cos(6 * angle), -disc(u, v, radius=0.24))


def gear(u, v):
    radius, angle = polar(u, v)
    return both(radius - 0.8 - 0.17 * np.tanh(6 * np.cos(9 * angle)), -disc(u, v, radius=0.38))


def heart(u, v):
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return polygon(u, v, *zip(x / 17, -y / 17, strict=True))


def house(u, v):
    walls = both(box(u, v, (0, 0.4), 0.65, 0.5), -box(u, v, (0, 0.6), 0.17, 0.32))
    return either(walls, polygon(u, v, (-0.95, -0.12), (0, -0.95), (0.95, -0.12)))


def tree(u, v):
    crown = [
        polygon(u, v, (0, top), (-w, top + 0.75), (w, top + 0.75)) for top, w in ((-1, 0.5), (-0.65, 0.65), (-0.3, 0.8))
    ]
    return either(*crown, box(u, v, (0, 0.7), 0.13, 0.28))


def fish(u, v):
    body = np.hypot((u + 0.15) / 1.6, v) - 0.48
    tail = polygon(u, v, (0.4, 0.0), (1.0, -0.55), (1.0, 0.55))
    return both(either(body, tail), -disc(u, v, -0.55, -0.12, 0.11))


def smiley(u, v):
    eyes = either(disc(u, v, -0.36, -0.3, 0.15), disc(u, v, 0.36, -0.3, 0.15))
    mouth = both(outline(disc(u, v, 0, 0.05, 0.55), 0.1), 0.2 - v)
    return both(disc(u, v), -eyes, -mouth)


def ladder(u, v):
    rungs = [box(u, v, (0, y), 0.45, 0.07) for y in (-0.66, -0.22, 0.22, 0.66)]
    return either(box(u, v, (-0.48, 0), 0.09, 1), box(u, v, (0.48, 0), 0.09, 1), *rungs)


def eye(u, v):
    lids = both(disc(u, v, 0, 0.75, 1.25), disc(u, v, 0, -0.75, 1.25))
    return either(outline(lids, 0.09), both(disc(u, v, radius=0.33), -disc(u, v, 0.1, -0.1, 0.1)))


def umbrella(u, v):
    canopy = both(disc(u, v, 0, 0.05, 1.0), v - 0.05, *(-disc(u, v, x, 0.12, 0.25) for x in (-0.75, -0.25, 0.25, 0.75)))
    handle = both(outline(disc(u, v, -0.2, 0.75, 0.2), 0.07), 0.75 - v)
    return either(canopy, box(u, v, (0, 0.35), 0.07, 0.4), handle)


def mushroom(u, v):
    cap = both(np.hypot(u, (v - 0.05) * 1.1) - 0.98, v - 0.05)
    spots = [disc(u, v, x, y, 0.15) for x, y in ((-0.5, -0.3), (0.05, -0.55), (0.5, -0.25))]
    return either(both(cap, *(-spot for spot in spots)), box(u, v, (0, 0.5), 0.26, 0.48))


TEXTURES = {
    "stripes": lambda u, v: band(v, 0.5),
    "checker": checker,
    "dots": lambda u, v: np.hypot(cell(u, 0.5), cell(v, 0.5)) - 0.15,
    "grid": lambda u, v: either(np.abs(cell(u, 0.5)), np.abs(cell(v, 0.5))) - 0.07,
    "bricks": bricks,
    "waves": lambda u, v: band(v + 0.16 * np.sin(2 * np.pi * u / 0.8), 0.5),
    "rings": lambda u, v: band(np.hypot(u, v), 0.44),
    "sunburst": sunburst,
    "spiral": spiral,
}
SHAPES = {
    "star": lambda u, v: polygon(u, v, *regular(10, 0.42)),
    "cross": lambda u, v: either(box(u, v, (0, 0), 0.95, 0.25), box(u, v, (0, 0), 0.25, 0.95)),
    "triangle": lambda u, v: polygon(u, v, *regular(3)),
    "heart": heart,
    "moon": lambda u, v: both(disc(u, v), -disc(u, v, 0.5, -0.1, 0.8)),
    "arrow": lambda u, v: either(box(u, v, (-0.4, 0), 0.6, 0.18), polygon(u, v, (0.1, -0.65), (1, 0), (0.1, 0.65))),
    "flower": flower,
    "house": house,
    "tree": tree,
    "fish": fish,
    "smiley": smiley,
    "ladder": ladder,
    "gear": gear,
    "bolt": lambda u, v: polygon(
        *(u, v, (0.2, -1), (-0.6, 0.15), (-0.1, 0.15), (-0.3, 1), (0.6, -0.25), (0.08, -0.25), (0.5, -1))
    ),
    "hourglass": lambda u, v: polygon(u, v, (-0.7, -0.95), (0.7, -0.95), (-0.7, 0.95), (0.7, 0.95)),
    "eye": eye,
    "donut": lambda u, v: outline(disc(u, v, radius=0.72), 0.25),
    "frame": lambda u, v: outline(box(u, v, (0, 0), 0.72, 0.72), 0.17),
    "umbrella": umbrella,
    "mushroom": mushroom,
    "disc": disc,
}
CONCEPTS = tuple(sorted([*TEXTURES, *SHAPES]))  # the order of their folders


def distance(name, u, v):
    """Signed distance of a concept; textures fill a disc."""
    return both(TEXTURES[name](u, v), disc(u, v)) if name in TEXTURES else SHAPES[name](u, v)


def coverage(distances, scale=1.0):
    """Share of each pixel that is covered, from distances in units of ``scale`` pixels."""
    return np.clip(0.5 - distances * scale, 0, 1)[..., None]


def draw(concept, *seed):
    """A picture of a concept, uint8 [64, 64, 3]; equal seeds make equal pictures.

    Position, radius (15 to 25 pixels), rotation, mirroring, colours, the gradient behind and 3 to 7 strokes of clutter
    are random. Drawn in float64, with noise from integer draws, so that pictures agree across machines.
    """
    random = np.random.default_rng([*seed])
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    light, dark = random.uniform(0.6, 1, 3), random.uniform(0, 0.35, 3)
    front, back = (light, dark) if random.random() < 0.5 else (dark, light)
    slope = random.uniform(-0.15, 0.15, (2, 3))
    picture = back + (x[..., None] / SIZE - 0.5) * slope[0] + (y[..., None] / SIZE - 0.5) * slope[1]
    for _ in range(random.integers(3, 8)):
        start, end = random.uniform(0, SIZE, (2, 2))
        stroke = coverage(line(x, y, start, end, random.uniform(0.5, 1.2)))
        picture += 0.6 * stroke * (random.uniform(0, 1, 3) - picture)
    radius, angle = random.uniform(15, 25), random.uniform(-0.4, 0.4)
    centre = random.uniform(0.85 * radius, SIZE - 0.85 * radius, 2)
    u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
    u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    u = -u if random.random() < 0.5 else u
    picture += coverage(distance(concept, u, v), radius) * (front - picture)
    noise = random.integers(-12, 13, picture.shape)
    return np.clip(np.rint(picture * 255 + noise), 0, 255).astype(np.uint8)


def write_pictures(folder, train=100, val=40, seed=0):
    """Draw a data set into ``folder/train/CONCEPT`` and ``folder/val/CONCEPT``; what is there already is left."""
    jobs = [
        (folder / split / name / f"{number:03d}.png", name, (seed, index, number + 10_000 * (split == "val")))
        for split, count in (("train", train), ("val", val))
        for index, name in enumerate(CONCEPTS)
        for number in range(count)
    ]
    for path, name, key in tqdm(jobs, "drawing", unit=" pictures"):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            Image.fromarray(draw(name, *key)).save(part, format="png")
            part.rename(path)
