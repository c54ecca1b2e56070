"""What stage 2 prints of a layer: its tables, the best channels, or one channel; and what can be run next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

STAGE2 = "get_cosine_similarities.py"
STAGE3 = "disentangle_channel.py"
STAGE4 = "get_results.py"
ALL_GROUPS = "or all channels of several groups"

Command = tuple[str, str]  # purpose and command


@dataclass(frozen=True)
class LayerFiles:
    """Files that stage 2 has written: ``table`` has the kept pairs, which are in ``candidates``, too.

    ``groups`` has the channels of several groups. These two are None where there are none.
    """

    table: Path
    candidates: Path | None
    groups: Path | None


@dataclass(frozen=True)
class LayerScreen:
    """The layer as stage 2 has found it, for people.

    ``stage_two`` are all its settings, as its files have them. ``kept`` are the candidates. ``counts`` [T, C] are the
    images of a class, of those that count, in which a channel is relevant.
    """

    settings: SimilaritySettings
    store: ImportanceStore
    stage_two: dict[str, Any]
    found: LayerClasses
    channels: layer_tables.ChannelClasses
    kept: ClassPairs
    counts: torch.Tensor
    classes: ClassMap
    files: LayerFiles

    def show(self, guide: dict[str, Any]) -> None:
        """Print what was asked for: all pairs and groups, the best channels, or one channel."""
        if self.settings.channel is not None:
            print_channel(
                self.settings.channel,
                self.stage_two,
                self.found,
                self.channels,
                self.kept,
                self.counts,
                self.classes,
            )
            return
        images = self.found.images[0]
        if self.settings.top is None:
            layer_tables.print_pairs(self.kept, self.channels, self.classes, self.files.table)
            layer_tables.print_groups(self.channels, self.classes, self.files.groups)
        else:
            print_best(self.kept, self.channels, self.classes, self.settings.top, self._shares(), images)
        cosines = self.stage_two["cosines"]
        gamma = self.stage_two["gamma"]
        layer_tables.print_layer(self.store.meta, self.channels, self.kept, cosines, gamma)
        layer_tables.warn(cosines[0], self.found.pairs, self.kept, images)
        gamma_guide.print_gamma(guide, gamma)
        if not len(self.kept):
            criteria = {name: self.stage_two[name] for name in ("p", "only_correct", "min_images", "only_above_mean")}
            layer_tables.print_helpful_taus(pairs_at_taus(self.store, self.found, cosines, **criteria))

    def commands(self) -> list[Command]:
        """What can be run next."""
        if self.settings.channel is not None:
            return self._commands_of_channel(self.settings.channel)
        commands = []
        if self.files.candidates and len(self.kept):
            lowest = int(self.kept.channel[-1])
            candidates = ("--candidates", self.files.candidates, "--channel_disentangle", lowest)
            commands.append(("next", self._command(STAGE3, *candidates)))
        if self.files.groups:
            commands.append((ALL_GROUPS, self._command(STAGE3, "--candidates", self.files.groups)))
        return commands

    def _commands_of_channel(self, channel: int) -> list[Command]:
        """Stage 2 with a smaller p, or stages 3 and 4 of the channel's classes; then those of its groups.

        Its classes are the pair of lowest cosine, or a class alone beside everything else.
        """
        commands = []
        concepts = self.channels.classes(channel)
        p = smaller_p(channel, self.stage_two, self.channels, self._shares()[:, channel], self.found.images[0])
        if len(concepts) < 2 and p:
            commands.append(("next", self._command(STAGE2, *self._thresholds(p), "--channel", channel)))
        elif len(concepts) > 1:
            concepts = self._pair_of(channel)
        if concepts:
            words = [
                word for k, output in enumerate(concepts, start=1) for word in (f"--classes_for_concept{k}", output)
            ]
            words += ["--background"] if len(concepts) == 1 else []
            words += ["--only_correct"] if self.settings.only_correct else []
            tau = ["--proportion_attribution_required", self.settings.tau]
            purpose = "or beside everything else" if len(concepts) == 1 and commands else "next"
            commands += self._both(purpose, words, channel, of_stage4=tau)
        if len(self.channels.groups(channel)) > 1:
            commands += self._both("or its groups", ["--candidates", self.files.groups], channel)
            commands += self._both(ALL_GROUPS, ["--candidates", self.files.groups])
        return commands

    def _pair_of(self, channel: int) -> list[int]:
        """The two classes of lowest cosine, of the candidates where the channel is one."""
        kept = self.kept[self.kept.channel == channel]
        pair = kept[len(kept) - 1 :] if len(kept) else self.channels.pairs_of(channel)[:1]
        return [int(pair.class1), int(pair.class2)]

    def _both(
        self, purpose: str, words: list[Any], channel: int | None = None, of_stage4: list[Any] | None = None
    ) -> list[Command]:
        """Stages 3 and 4 of the same candidates."""
        of_stage3 = [] if channel is None else ["--channel_disentangle", channel]
        channel_of_stage4 = [] if channel is None else ["--channel_of_interest", channel]
        stage4 = self._command(STAGE4, *channel_of_stage4, *words, "--split_by", USUAL, *(of_stage4 or []))
        return [(purpose, self._command(STAGE3, *of_stage3, *words)), ("then", stage4)]

    def _thresholds(self, p: float) -> list[Any]:
        """The flags of this run, with another p."""
        words = ["--p", p, "--proportion_attribution_required", self.settings.tau]
        words += ["--cos_sim_low", self.settings.cos_sim_low, "--cos_sim_high", self.settings.cos_sim_high]
        for name in ("min_images", "output_dir"):
            words += [f"--{name}", getattr(self.settings, name)]
        return words + [f"--{name}" for name in ("only_correct", "only_above_mean") if getattr(self.settings, name)]

    def _command(self, script: str, *words: object) -> str:
        return flags.next_command(script, *words, settings=self.settings)

    def _shares(self) -> torch.Tensor:
        """In which share of the images of each class each channel is relevant, [T, C]."""
        return relevant_shares(self.counts, self.found.images[0])
