"""Default values, each defined once. Nothing is imported here, so that ``--help`` can read them quickly.

A default that only one plug-in uses is in that plug-in's file (``utils/divisions/``, ``utils/concept_sources/``).
"""

# Folders and layers
DATA_DIR = "/datasets/imagenet/"
STORE_DIR = "./store_dir"
OUTPUT_DIR = "."
MODEL_DIR = "models_disentangled"  # of split files, in the store
WEIGHTS = "IMAGENET1K_V1"  # of torchvision, where a network has them; else its DEFAULT
LAYER = "last_conv"
LAST_LAYERS = ("last_conv", "last_linear")

# Images and arithmetic
RESIZE_SIZE = 256  # pixels
CROP_SIZE = 224
INTERPOLATION = "bilinear"
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MEAN = (0.485, 0.456, 0.406)  # of ImageNet
STD = (0.229, 0.224, 0.225)
BATCH_SIZE = 64  # images
CHUNK_SIZE = 2048  # of a large store; in a smaller one a chunk is 1 / FEWEST_CHUNKS of the images
FEWEST_CHUNKS = 10
SMALLEST_CHUNK = 64  # images
DECODER = "pil"
DECODERS = ("pil", "fast", "gpu")
PRECISION = "fp32"
PRECISIONS = ("fp32", "tf32", "bf16")

# Stage 2: which channels are relevant for which classes, and which pairs are listed
TAU = 0.03
P = 0.75
GAMMA = 0.5  # the paper's; also used where --cos_sim_high is 1, which keeps every pair
COS_SIM_LOW = 0.0
COS_SIM_HIGH = GAMMA  # the published script: 1.0
MIN_IMAGES = 1
ONLY_CORRECT = False

# Stage 3: concepts
MAX_CONCEPTS = 8  # that flags can name
BACKGROUND_NAME = "everything else"
BACKGROUND_WEIGHT = 1.0  # of the background; a concept's images have weight 1
BACKGROUND_SAMPLE = 5_000  # images that represent the background

# Stage 4
SEPARATION_DRAWS = 20  # of each null, for every concept
SEPARATION_MOST_DRAWS = 199  # of the primary null, for concepts that it does not reach
SEPARATION_IRRELEVANT = 20  # irrelevant channels that are drawn for a split where there is too much to do for all
COMPARISON_DRAWS = 20  # of each null
RANKED_CHANNELS = 10  # the best for a list of images, whose circuits are ranked, too
IMAGE_SET_DRAWS = 20  # units of permuted weights that each concept without labels is compared with
NAMING_IMAGES = 20_000  # training images, evenly spread over the store, on which names of concepts are chosen
COMPARISON_RHO = 1.0
SAE_TRAINERS = ("torch", "overcomplete")  # what trains the autoencoders of a comparison
SAE_TRAINER = SAE_TRAINERS[0]
COMPARISON_CHANNELS = 100  # at most; of more, a sample
ASSIGNED_IMAGES = 100  # validation images of a channel that are given to concepts without labels
VISUALIZATION_STEPS = 200
VISUALIZATION_SEEDS = 2
EFFECT_TO = "mean"
EFFECTS_TO = ("mean", "zero")
EDIT_FACTOR = 0.0  # what is left of a part that is taken out
COST_CLASSES = 10  # that lose most by an edit, and that gain most
PATCHES = "ranked"
PATCH_RULES = ("ranked", "paper")
PATCHES_OF = ("all", "classes")  # of a card: all of val/, or the images of its concepts
MOST_PATCH_IMAGES = 5_000  # in val/, up to which cards show patches of all of it by default
