"""What stage 2 prints of a layer: its tables, the best channels, or one channel; and the commands to run next."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.command_line.commands import STAGE2, STAGE3, STAGE4, Command, next_command
from utils.command_line.earlier_settings import FLAGS, choosing_flags
from utils.command_line.settings import SimilaritySettings
from utils.defaults import GAMMA
from utils.divisions.division_registry import USUAL, USUAL_OF_LAYERS
from utils.report import gamma_guide, layer_tables, store_text
from utils.report.channel_text import LayerFindings, print_best, print_channel, smaller_p
from utils.stages.helpful_settings import Criteria, Helpful, helpful_settings, helpful_taus
from utils.stages.relevance import class_statistics
from utils.store.class_statistics import ClassStore
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore

ALL_GROUPS = "or all channels that have several groups"
BEST_CHANNEL = "or only the channel whose groups differ most"


@dataclass(frozen=True)
class LayerFiles:
    """Files that stage 2 has written: ``table`` and ``candidates`` have the kept pairs.

    ``groups`` has the channels with several groups. ``candidates`` and ``groups`` are None if there are none.
    """

    table: Path
    candidates: Path | None
    groups: Path | None


@dataclass(frozen=True)
class LayerScreen:
    """Prints the results of stage 2 for a layer."""

    settings: SimilaritySettings
    store: ImportanceStore
    class_store: ClassStore
    findings: LayerFindings
    files: LayerFiles

    def show(self, guide: dict[str, Any]) -> None:
        """Print all pairs and groups, the best channels, or one channel, as the flags request."""
        findings = self.findings
        if self.settings.channel is not None:
            print_channel(self.settings.channel, findings)
            return
        cosines = findings.settings["cosines"]
        if self.settings.top is None:
            layer_tables.print_pairs(
                findings.candidates, findings.channels, findings.classes, self.files.table, cosines
            )
            layer_tables.print_groups(findings.channels, findings.classes, self.files.groups)
        else:
            print_best(findings, self.settings.top)
        gamma = findings.settings["gamma"]
        _, images = self.class_store.require_means()
        print()
        store_text.print_counted(images[:, 0], findings.settings)
        layer_tables.print_layer(self.store.meta, findings.channels, findings.candidates, cosines, gamma)
        layer_tables.warn(cosines[0], findings.layer.pairs, findings.candidates, findings.images)
        gamma_guide.print_gamma(guide, gamma)
        if self.is_empty:
            self._print_helpful()

    @property
    def is_empty(self) -> bool:
        """Whether a whole layer has no pair, so that there is nothing to look at."""
        return self.settings.channel is None and not len(self.findings.candidates)

    def commands(self) -> list[Command]:
        """The commands to run next: the whole layer, and its best channel; or stage 2 with settings that find some."""
        if self.settings.channel is not None:
            return self._commands_of_channel(self.settings.channel)
        if self.is_empty:
            return [("next", self._command(STAGE2, *self._helpful_words()))] if self._helpful else []
        if self.files.groups:
            best = self.findings.channels.least_alike().channel
            layer = ["--candidates", self.files.groups, "--split_by", USUAL_OF_LAYERS]
            return [
                ("next", self._command(STAGE3, *layer)),
                (BEST_CHANNEL, self._command(STAGE3, *layer, "--channel_disentangle", best)),
            ]
        if self.files.candidates:
            lowest = int(self.findings.candidates.channel[-1])
            candidates = ("--candidates", self.files.candidates, "--channel_disentangle", lowest)
            return [("next", self._command(STAGE3, *candidates))]
        return []

    @cached_property
    def _requested(self) -> Criteria:
        return Criteria(**{field.name: getattr(self.settings, field.name) for field in fields(Criteria)})

    @cached_property
    def _helpful(self) -> Helpful | None:
        """Settings of stage 2 that find pairs, for a layer in which the requested ones find none."""
        taus = helpful_taus(self._requested.tau)
        statistics = class_statistics(self.store, self.class_store, taus)
        return helpful_settings(self._requested, statistics, taus, self.findings.layer)

    def _helpful_words(self) -> list[object]:
        """The flags of the helpful settings that are not the requested ones."""
        words: list[object] = []
        requested = asdict(self._requested)
        for name, value in asdict(self._helpful.criteria).items() if self._helpful else ():
            if value != requested[name]:
                words += [f"--{FLAGS.get(name, name)}", *([] if value is True else [value])]
        return words

    def _print_helpful(self) -> None:
        if self._helpful:
            print(f"\nno pairs, but {self._helpful.pairs} with {' '.join(map(str, self._helpful_words()))}")
            requested, offered = self._requested.cos_sim_high, self._helpful.criteria.cos_sim_high
            if offered > max(GAMMA, requested):
                print(
                    f"no pair has a cosine below {requested:g}: no channel is polysemantic at this gamma. {offered:g} "
                    f"is the smallest bound with {self._helpful.pairs} pairs, those whose inputs differ most; the "
                    "share of clean splits that stage 2 prints shows how well they can be divided"
                )
        else:
            print("\nno pairs: no channel is relevant for two classes, whatever tau and --p")

    def _commands_of_channel(self, channel: int) -> list[Command]:
        """Stage 2 with a smaller p, or stages 3 and 4 of the channel's classes; then those of its groups.

        The classes are the pair of lowest cosine; a single class is split from the background.
        """
        commands = []
        concepts = self.findings.channels.classes(channel)
        p = smaller_p(channel, self.findings)
        if len(concepts) < 2 and p:
            commands.append(("next", self._command(STAGE2, "--p", p, "--channel", channel)))
        elif len(concepts) > 1:
            concepts = self._pair_of(channel)
        if concepts:
            words = [
                word for k, output in enumerate(concepts, start=1) for word in (f"--classes_for_concept{k}", output)
            ]
            words += ["--background"] if len(concepts) == 1 else []
            purpose = "or with a background" if len(concepts) == 1 and commands else "next"
            commands += self._both(purpose, words, channel)
        if len(self.findings.channels.groups(channel)) > 1:
            groups = ["--candidates", self.files.groups]
            commands += self._both("or its groups", groups, channel, split_by=USUAL_OF_LAYERS)
            commands += self._both(ALL_GROUPS, groups, split_by=USUAL_OF_LAYERS)
        return commands

    def _pair_of(self, channel: int) -> list[int]:
        """The pair of lowest cosine: among the candidates if the channel has any there, else among all of its pairs."""
        candidates = self.findings.candidates
        kept = candidates[candidates.channel == channel]
        pair = kept[len(kept) - 1 :] if len(kept) else self.findings.channels.pairs_of(channel)[:1]
        return [int(pair.class1), int(pair.class2)]

    def _both(
        self, purpose: str, words: list[Any], channel: int | None = None, *, split_by: str = USUAL
    ) -> list[Command]:
        """Stages 3 and 4 of the same candidates."""
        of_stage3 = [] if channel is None else ["--channel_disentangle", channel]
        of_stage4 = [] if channel is None else ["--channel_of_interest", channel]
        of_stage3 += [*words, *(["--split_by", split_by] if split_by != USUAL else [])]
        of_stage4 += [*words, "--split_by", split_by]
        if self.settings.only_correct or "only_correct" in self._told_apart:
            of_stage4 += ["--only_correct" if self.settings.only_correct else "--no-only_correct"]
        commands = self._command(STAGE3, *of_stage3), self._command(STAGE4, *of_stage4)
        return list(zip((purpose, "then"), commands, strict=True))

    def _command(self, script: str, *words: object) -> str:
        """A command with the settings of this run, and with the precision and decoding of its store."""
        known = {**self.store.meta, **self.findings.settings}
        return next_command(script, *words, settings=self.settings, known=known, told_apart=self._told_apart)

    @cached_property
    def _told_apart(self) -> list[str]:
        """The flags that choose among the runs of stage 2 in the store."""
        run = run_name(self.settings.model, self.settings.layer_of_interest)
        return choosing_flags(self.settings, run, self.store.meta)
