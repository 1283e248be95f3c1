"""Pre-training from a config to a plain Hugging Face folder, with Hugging Face's Trainer; a killed run is resumed."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch._dynamo.exc import TorchDynamoException
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from blair_rec.config.section import to_dict
from blair_rec.device import check_group, choose_device, device_name
from blair_rec.errors import ConfigError, OutputError, PretrainingError, counted
from blair_rec.files.contents import files_in, sha256_of
from blair_rec.files.locks import work_beside
from blair_rec.files.places import real_place, refuse_foreign, refuse_loss
from blair_rec.files.writing import partial_of, put_in_place, room_for, write_text
from blair_rec.pretrain.batches import PairCollator
from blair_rec.pretrain.model import PairModel, compile_layers, export, load_language_model
from blair_rec.pretrain.pairs import TextPairs, open_pairs, split_pairs
from blair_rec.pretrain.resuming import (
    MARK,
    changed_names,
    is_first,
    last_checkpoint,
    room_for_checkpoints,
    step_of,
    stopped,
)
from blair_rec.pretrain.retrieval import embedder, retrieval
from blair_rec.pretrain.settings import PretrainConfig
from blair_rec.pretrain.trainer import LOOK, InBackground, Notes, OneDevice, OnPairStep, PairTrainer
from blair_rec.text.encoding.modules import capped_length, read_recipe
from blair_rec.text.encoding.quiet import quiet_transformers
from blair_rec.text.encoding.tokens import check_length

logger = logging.getLogger("blair_rec")

RECORD = "pretraining.json"
WORK = "training"
"""Ending of the hidden folder next to an encoder that holds its checkpoints."""
EVENTS = "tensorboard"
"""Folder of the learning curves for TensorBoard: with the checkpoints during training, then in the encoder's folder."""
READS = "sentence_bert_config.json"
"""File of sentence-transformers with the length that a model reads; copied, so that it stays as before training."""


@quiet_transformers()
def pretrain(
    config: PretrainConfig,
    start: Path,
    pooling: str,
    out: Path,
    *,
    fresh: bool = False,
    progress: OnPairStep | None = None,
) -> dict[str, Any]:
    """Train the encoder at `start`, and write to `out` a folder that `AutoModel.from_pretrained` reads.

    Checkpoints are in a hidden folder next to `out` until training is done; the same call resumes from the last one.
    Under torchrun every process calls this. If these settings and pairs have made `out` before, nothing is done.

    Returns the record, which is also written to `out`/pretraining.json: settings, the pairs' hash, the losses, the
    retrieval of held-out pairs before and after training, and the names of the files.

    Raises:
        ConfigError: max_length leaves no token for a text, the device doesn't exist or has no such precision, or a
            variable of torchrun is missing or wrong.
        PairsError: the pairs can't be read, or are too few to train on.
        PretrainingError: a tokenizer of another model, a loss that is not finite, checkpoints of another config or
            damaged ones, or layers that can't be compiled.
        OutputError: `out` exists already, holds files that are not ours, or can't be written.
        FolderBusy: another process trains there.
    """
    check_group()
    target = real_place(out)
    if fresh:
        _refuse_foreign(out)
    if config.precision == "float16" and torch.device(choose_device(config.device)).type == "cpu":
        raise ConfigError("precision is float16, which needs a GPU; on a CPU use bfloat16 or float32")
    length, capped_by = capped_length(read_recipe(start, config.encoder), config.max_length)
    check_length(len(AutoTokenizer.from_pretrained(start)("")["input_ids"]), "", length, config.encoder, capped_by)
    if capped_by:
        logger.info("max_length is %d, but %d tokens of each text are read (%s)", config.max_length, length, capped_by)
        config = config.changed(max_length=length)
    if not fresh and out.exists():
        record, changed = _compared(config, start, out)
        if record is None or changed:
            why = "" if record is None else f", trained with different settings or pairs ({', '.join(changed)})"
            cure = "choose another folder with -o, or train again with --fresh"
            raise OutputError(f"{out} is there already{why}; {cure}")
        logger.info("%s was trained with these settings on these pairs already; train again with --fresh", out)
        return record
    pairs = open_pairs(config.pairs, config.context, config.item, config.item_id, config.hard_negative)
    training, held_out = split_pairs(pairs, config.held_out, config.seed)
    steps = len(training) // config.batch_size
    if steps == 0:
        raise PretrainingError(
            f"{len(training)} training pairs are less than one batch of {config.batch_size}; lower batch_size"
        )
    work = target.with_name(f".{target.name}.{WORK}")
    with contextlib.ExitStack() as stack:
        if is_first():  # under torchrun the first process holds the lock for all
            refuse_foreign(work, {MARK, ".lock"}, {"*"})
            stack.enter_context(work_beside(target, WORK, f"the encoder {out}"))
        return _trained(config, start, pooling, target, work, pairs, training, held_out, fresh, progress)


def _trained(
    config: PretrainConfig,
    start: Path,
    pooling: str,
    out: Path,
    work: Path,
    pairs: TextPairs,
    training: TextPairs,
    held_out: TextPairs,
    fresh: bool,
    progress: OnPairStep | None,
) -> dict[str, Any]:
    """Train in `work`, put the encoder at `out`, and return the record."""
    start_files = _files_of(start)
    identity = {**_identity(to_dict(config), pairs.sha256, start_files), "start": str(start), "pooling": pooling}
    checkpoint = last_checkpoint(work, identity, fresh)
    tokenizer = AutoTokenizer.from_pretrained(start)
    set_seed(config.seed)
    model = PairModel(
        load_language_model(start, tokenizer, mlm=config.mlm_weight > 0),
        pooling,
        temperature=config.temperature,
        mlm_weight=config.mlm_weight,
        mask_false_negatives=config.mask_false_negatives,
        chunk_size=config.chunk_size,
    )
    masked = config.mlm_probability if config.mlm_weight else None
    notes = Notes(progress)
    collator = PairCollator(tokenizer, config.max_length, masked, config.seed)
    with ThreadPoolExecutor(max_workers=1) as thread:
        trainer = PairTrainer(
            model=model,
            args=_arguments(config, work),
            train_dataset=training,
            data_collator=InBackground(collator, thread),
            callbacks=[notes, *([_curves(work / EVENTS)] if config.tensorboard else [])],
        )
        notes.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        before = _measure(model, tokenizer, held_out, config)
        set_seed(config.seed)
        shared = len(pairs) - len(training) - len(held_out)
        logger.info(
            "training on %s of %s, %d held out%s",
            counted(len(training), "pair"), counted(training.n_items, "item"), len(held_out),
            f", {shared} left out for sharing a text with a held-out item" * bool(shared),
        )  # fmt: skip
        if checkpoint:
            logger.info("training goes on after step %d, from its checkpoint", step_of(checkpoint))
        if config.compile:
            compile_layers(model.encoder)
        try:
            with room_for_checkpoints(work):
                result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except KeyboardInterrupt:
            logger.warning("%s", stopped(trainer.state.global_step, work))
            raise
        except TorchDynamoException as err:
            raise PretrainingError(
                f"PyTorch can't compile the encoder's layers here ({str(err).splitlines()[0]}); install a C++ "
                "compiler, such as g++, and for a GPU Triton, or set `compile: false`"
            ) from err
    record = {
        "config": to_dict(config),
        "pairs_sha256": pairs.sha256,
        "start_files": start_files,
        "training_pairs": len(training),
        "training_items": training.n_items,
        "held_out_pairs": len(held_out),
        "steps": trainer.state.global_step,
        "processes": trainer.args.world_size,
        "device": device_name(trainer.args.device),
        "train_seconds": result.metrics["train_runtime"],
        "losses": [line for line in trainer.state.log_history if "loss" in line],
        "before": before,
        "after": _measure(model, tokenizer, held_out, config),
    }
    if trainer.is_world_process_zero():
        _write(model, tokenizer, start, record, work / EVENTS, out)
    return record


def _compared(config: PretrainConfig, start: Path, out: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The record of the encoder at `out`, if there is one, and the settings that differ from it."""
    try:
        record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
        files = _files_of(start)
        before = _identity(record["config"], record["pairs_sha256"], record.get("start_files", files))
        return record, changed_names(before, _identity(to_dict(config), sha256_of(Path(config.pairs)), files))
    except (OSError, ValueError, TypeError, KeyError):  # none, a broken one, or of another version
        return None, []


def _identity(settings: dict[str, Any], pairs_sha256: str, start_files: dict[str, str]) -> dict[str, Any]:
    """Everything that decides whether two trainings are the same. The device and compiling don't count."""
    counting = {key: value for key, value in settings.items() if key not in ("device", "compile")}
    return counting | {"pairs_sha256": pairs_sha256, "start_files": start_files}


def _files_of(start: Path) -> dict[str, str]:
    """The SHA-256 of each file of the encoder that training starts from: a local folder may change."""
    return {path.name: sha256_of(path) for path in sorted(start.iterdir()) if path.is_file()}


def _refuse_foreign(out: Path) -> None:
    """Raise OutputError if `out` holds anything that a pre-training did not write."""
    ours: list[str] = []
    if (out / RECORD).is_file():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a broken record names no file
            record = json.loads((out / RECORD).read_text(encoding="utf-8"))
            if "pairs_sha256" in record and "files" not in record:
                raise OutputError(
                    f"an earlier version of blair_rec trained the encoder in {out} and did not note which files "
                    "it wrote, so nothing is removed; choose another folder with -o, or remove this one yourself"
                )
            ours = [str(name) for name in record["files"]]
    refuse_foreign(out, {RECORD}, {glob.escape(name.partition("/")[0]) for name in ours})
    # An earlier record names folders, not what they hold.
    inside = [name for name in files_in(out) if "/" in name and name.partition("/")[0] not in ours]
    refuse_loss(out, [name for name in inside if name not in ours])


def _arguments(config: PretrainConfig, work: Path) -> TrainingArguments:
    device = torch.device(choose_device(config.device))
    gpu = device.type == "cuda"
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if gpu and torch.cuda.is_bf16_supported() else "float32"
    return OneDevice(
        device,
        output_dir=str(work),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=not gpu,
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=LOOK,
        logging_nan_inf_filter=False,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )


def _curves(folder: Path) -> TensorBoardCallback:
    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback


def _measure(
    model: PairModel, tokenizer: PreTrainedTokenizerBase, held_out: TextPairs, config: PretrainConfig
) -> dict[str, float] | None:
    if len(held_out) == 0:
        return None
    with torch.compiler.set_stance("force_eager"):  # compiling for these few texts would take longer than they do
        return retrieval(embedder(model.encoder, tokenizer, model.pooling, config.max_length), held_out)


def _write(
    model: PairModel,
    tokenizer: PreTrainedTokenizerBase,
    start: Path,
    record: dict[str, Any],
    curves: Path,
    out: Path,
) -> None:
    partial = partial_of(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with room_for(out):
            export(model, tokenizer, partial)
            if (start / READS).is_file():
                shutil.copyfile(start / READS, partial / READS)
            if curves.is_dir():
                shutil.copytree(curves, partial / EVENTS)
            record |= {"schema": 1, "files": files_in(partial)}
            write_text(partial / RECORD, json.dumps(record, indent=1, default=_plain) + "\n")
        _refuse_foreign(out)  # hours may have passed
        put_in_place(out)
    except SafetensorError as error:
        raise OutputError(
            f"{out} can't be written ({error}); free some space, then run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else str(value)
