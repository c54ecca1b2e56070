"""The registered sources of concepts. A new source is a line here and a file of its own."""

from utils.plugins import Registry

SOURCES = Registry(
    "source of concepts",
    {
        "classes": "utils.concept_sources.classes:Classes",
        "user_images": "utils.concept_sources.user_images:UserImages",
        "predicted_classes": "utils.concept_sources.predicted_classes:PredictedClasses",
        "circuits": "utils.concept_sources.circuits:Circuits",
        "pure": "utils.concept_sources.pure:Pure",
        "concept_vectors": "utils.concept_sources.concept_vectors:ConceptVectors",
        "sae": "utils.concept_sources.sae:Autoencoders",
        "nmf": "utils.concept_sources.nmf:NonnegativeFactorisation",
    },
)
USUAL = "classes"
SUGGESTED = "circuits"  # in the commands to run next: it needs nothing but the store
