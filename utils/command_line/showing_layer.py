"""What stage 2 prints of a layer: its tables, the best channels, or one channel; and what can be run next."""

from dataclasses import dataclass
from pathlib import Path

import torch

from utils.command_line import flags
from utils.command_line.settings import SimilaritySettings
from utils.divisions.division_registry import USUAL
from utils.images.folders import ClassMap
from utils.method.importance import relevant_shares
from utils.method.polysemanticity import ClassPairs
from utils.report import gamma_guide, layer_tables
from utils.report.channel_text import print_best, print_channel, smaller_p
from utils.stages.relevance import LayerClasses, pairs_at_taus
from utils.store.importance_store import ImportanceStore

STAGE2, STAGE3, STAGE4 = "get_cosine_similarities.py", "disentangle_channel.py", "get_results.py"
CHANNEL_FLAGS = "channel_disentangle", "channel_of_interest"
ALL_GROUPS = "or all channels of several groups"


@dataclass
class LayerScreen:
    """The layer as stage 2 has found it, for people.

    ``asked`` is all that stage 2 was asked, ``kept`` are the candidates. ``counts`` [T, C] are the images of a class in
    which a channel is relevant, of those that count. The pairs are in ``table`` and, as candidates, in ``candidates``,
    the groups in ``groups``; these two are None where there are none.
    """

    settings: SimilaritySettings
    store: ImportanceStore
    asked: dict
    found: LayerClasses
    channels: layer_tables.ChannelClasses
    kept: ClassPairs
    counts: torch.Tensor
    classes: ClassMap
    table: Path
    candidates: Path | None
    groups: Path | None

    def show(self, guide):
        """Print what was asked for: all pairs and groups, the best channels, or one channel."""
        if self.settings.channel is not None:
            how = self.asked, self.found, self.channels, self.kept, self.counts, self.classes
            return print_channel(self.settings.channel, *how)
        if self.settings.top is None:
            layer_tables.print_pairs(self.kept, self.channels, self.classes, self.table)
            layer_tables.print_groups(self.channels, self.classes, self.groups)
        else:
            number, images = self.settings.top, self.found.images[0]
            print_best(self.kept, self.channels, self.classes, number, self._shares(), images)
        cosines, gamma = self.asked["cosines"], self.asked["gamma"]
        layer_tables.print_layer(self.store.meta, self.channels, self.kept, cosines, gamma)
        layer_tables.warn(cosines[0], self.found.pairs, self.kept, self.found.images[0])
        gamma_guide.print_gamma(guide, gamma)
        if not len(self.kept):
            chosen_by = {name: self.asked[name] for name in ("p", "only_correct", "min_images", "only_above_mean")}
            layer_tables.print_helpful_taus(pairs_at_taus(self.store, self.found, cosines, **chosen_by))

    def commands(self):
        """What can be run next: a list of (what for, command)."""
        if self.settings.channel is not None:
            return self._commands_of_channel(self.settings.channel)
        found = []
        if self.candidates and len(self.kept):
            lowest = int(self.kept.channel[-1])
            command = self._command(STAGE3, "--candidates", self.candidates, "--channel_disentangle", lowest)
            found.append(("next", command))
        if self.groups:
            found.append((ALL_GROUPS, self._command(STAGE3, "--candidates", self.groups)))
        return found

    def _commands_of_channel(self, channel):
        """Stages 3 and 4 of a channel's pair of lowest cosine, of its groups, and of all channels that have several; of
        one with a class alone, beside everything else, and a p that finds more."""
        kept, classes, found = self.kept[self.kept.channel == channel], self.channels.classes(channel), []
        p = smaller_p(channel, self.asked, self.channels, self._shares()[:, channel], self.found.images[0])
        if len(classes) < 2 and p:
            found.append(("next", self._command(STAGE2, *self._thresholds(p), "--channel", channel)))
        elif len(classes) > 1:
            pair = kept[len(kept) - 1 :] if len(kept) else self.channels.pairs_of(channel)[:1]
            classes = [int(pair.class1), int(pair.class2)]
        if classes:
            words = [word for k, one in enumerate(classes, start=1) for word in (f"--classes_for_concept{k}", one)]
            words += ["--background"] if len(classes) == 1 else []
            words += ["--only_correct"] if self.settings.only_correct else []
            tau = ["--proportion_attribution_required", self.settings.taus[0]]
            what = "or beside everything else" if len(classes) == 1 and found else "next"
            found += self._both(what, words, channel, tau)
        if len(self.channels.groups(channel)) > 1:
            found += self._both("or its groups", ["--candidates", self.groups], channel)
            found += self._both(ALL_GROUPS, ["--candidates", self.groups])
        return found

    def _both(self, what, words, channel=None, of_stage4=()):
        """Stages 3 and 4 of the same: two commands."""
        third, fourth = ([f"--{flag}", channel] if channel is not None else [] for flag in CHANNEL_FLAGS)
        return [
            (what, self._command(STAGE3, *third, *words)),
            ("then", self._command(STAGE4, *fourth, *words, "--split_by", USUAL, *of_stage4)),
        ]

    def _thresholds(self, p):
        """The flags of this run, with another p."""
        (tau,), (high,) = self.settings.taus, self.settings.cos_sim_highs
        words = ["--p", p, "--proportion_attribution_required", tau, "--cos_sim_low", self.settings.cos_sim_low]
        words += ["--cos_sim_high", high]
        for name in ("min_images", "output_dir"):
            words += [f"--{name}", getattr(self.settings, name)]
        return words + [f"--{name}" for name in ("only_correct", "only_above_mean") if getattr(self.settings, name)]

    def _command(self, script, *more):
        return flags.next_command(script, *more, settings=self.settings)

    def _shares(self):
        return relevant_shares(self.counts, self.found.images[0])
