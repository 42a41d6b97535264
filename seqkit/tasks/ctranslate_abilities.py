"""What CTranslate2 can be asked for: options, devices, numbers. The rest is refused by name. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqkit.errors import UsageError
from seqkit.recipe.seq2seq_schema import TranslateOptions

if TYPE_CHECKING:
    from seqkit.runs.export_folder import Export


def check_ctranslate(
    options: TranslateOptions, *, num_models: int, has_prefix: bool, has_constraints: bool, seed: int | None
) -> None:
    """Refuse by name what CTranslate2 cannot do, or would do in another way.

    Args:
        options: The options, flags merged in.
        num_models: Models that predict together.
        has_prefix: Whether a translation may have to begin in some way.
        has_constraints: Whether anything must occur in the translations.
        seed: Of sampled translations.

    Raises:
        UsageError: As said.
    """
    hint = "leave it out, or use --engine torch"
    if num_models > 1:
        raise UsageError("--engine ctranslate2 runs one model, so --ensemble is not for it", hint=hint)
    if has_constraints:
        raise UsageError("--engine ctranslate2 has no constraints", hint=hint)
    if options.sample or seed is not None:
        raise UsageError(
            "--engine ctranslate2 has no --sample whose draws depend on the seed and the line alone", hint=hint
        )
    if options.patience is not None and options.patience < 1:
        raise UsageError(
            f"--engine ctranslate2 has no --patience below 1, found {options.patience:g}",
            hint="--patience 1 ends soonest",
        )
    one_beam = {
        "--prefix": has_prefix,
        "--coverage-penalty": options.coverage_penalty > 0,
        "--min-length": options.min_length > 0,
        "--no-repeat-ngram": options.no_repeat_ngram > 0,
    }
    for name, is_asked in one_beam.items():
        if is_asked and options.beam > 1:
            raise UsageError(
                f"--engine ctranslate2 has {name} only with --beam 1: with more it would search by other rules",
                hint="--beam 1, or --engine torch",
            )


def chosen_device(package: Any, name: str) -> tuple[str, int]:
    """The package's words for a device.

    Raises:
        UsageError: It has no such device, or the machine has not.
    """
    num_cards = package.get_cuda_device_count()
    kind, _, number = name.partition(":")
    if kind == "auto" and not number:
        return ("cuda", 0) if num_cards else ("cpu", 0)
    if kind == "cpu" and not number:
        return kind, 0
    if kind != "cuda" or not (number.isdecimal() or name == "cuda"):
        raise UsageError(f"--engine ctranslate2 has the devices auto, cpu, cuda and cuda:N, not {name!r}")
    if int(number or 0) >= num_cards:
        raise UsageError(f"device {name!r} is not on this machine ({num_cards} CUDA devices for CTranslate2)")
    return kind, int(number or 0)


def chosen_type(package: Any, export: Export, options: TranslateOptions, kind: str) -> str:
    """The numbers to compute with.

    Raises:
        UsageError: The export does not hold them, or the machine does not compute with them.
    """
    stored = export.facts["export"].get("type")
    asked = options.engine_type
    if asked is not None and stored not in {asked, "float32"}:
        raise UsageError(
            f"--engine-type {asked}: {export.path} holds {stored}, and from that there is no way back",
            hint="export in float32 and choose here, or leave --engine-type out",
        )
    if asked is None:
        # What is stored or, where the machine does not compute with that, what comes nearest.
        return "default"
    able = package.get_supported_compute_types(kind)
    if asked not in able:
        raise UsageError(
            f"--engine-type {asked}: this machine's {kind} does not compute with it", hint=", ".join(sorted(able))
        )
    return asked
