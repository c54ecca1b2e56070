"""Default values, each defined once. Nothing is imported here, so that ``--help`` can read them quickly.

A default that only one plug-in uses is in that plug-in's file (``utils/divisions/``, ``utils/concept_sources/``).
"""

# Where things are
DATA_DIR = "/datasets/imagenet/"
STORE_DIR = "./store_dir"
OUTPUT_DIR = "."
LAYER, LAST_LAYERS = "last_conv", ("last_conv", "last_linear")

# Images and arithmetic
RESIZE_SIZE, CROP_SIZE = 256, 224  # pixels
INTERPOLATION, INTERPOLATIONS = "bilinear", ("nearest", "bilinear", "bicubic")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
BATCH_SIZE, CHUNK_SIZE = 64, 2048  # images
DECODER, DECODERS = "pil", ("pil", "fast", "gpu")
PRECISION, PRECISIONS = "fp32", ("fp32", "tf32", "bf16")

# Stage 2: which channels are relevant for which classes, and which pairs are listed
TAU = 0.03
P = 0.75
GAMMA = 0.5  # the paper's; used where COS_SIM_HIGH is 1 and so keeps every pair
COS_SIM_LOW, COS_SIM_HIGH = 0.0, 1.0
MIN_IMAGES = 1
ONLY_CORRECT = False

# Stage 3: concepts
MAX_CONCEPTS = 8  # that flags can name
BACKGROUND_NAME = "everything else"
BACKGROUND_WEIGHT = 1.0  # of everything else; a concept's images have weight 1
BACKGROUND_SAMPLE = 5_000  # images that stand for everything else

# Stage 4
SEPARATION_DRAWS = 20  # of permuted shares, and of permuted weights
COMPARISON_DRAWS = 3  # of each null
COMPARISON_RHO = 1.0
ASSIGNED_IMAGES = 100  # validation images of a channel that are given to concepts without labels
VISUALIZATION_STEPS, VISUALIZATION_SEEDS = 200, 2
EFFECT_TO, EFFECTS_TO = "mean", ("mean", "zero")
PATCHES, PATCH_RULES = "ranked", ("ranked", "paper")
