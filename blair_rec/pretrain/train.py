"""Pre-training from a config to a plain Hugging Face folder, with Hugging Face's Trainer; a killed run is resumed."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.training_args import ParallelMode
from transformers.utils import logging as transformers_logging

from blair_rec.config.section import to_dict
from blair_rec.device import choose_device, device_name
from blair_rec.errors import OutputError, PretrainingError
from blair_rec.files import partial_of, put_in_place, refuse_foreign, work_beside, write_text
from blair_rec.pretrain.batches import PairCollator
from blair_rec.pretrain.model import PairModel, export, load_language_model
from blair_rec.pretrain.pairs import TextPairs, open_pairs, split_pairs
from blair_rec.pretrain.retrieval import embedder, retrieval
from blair_rec.pretrain.settings import PretrainConfig

logger = logging.getLogger("blair_rec")

RECORD, WEIGHTS, WHOLE = "pretraining.json", "model.safetensors", "whole"
WORK, MARK = "training", "identity.json"
"""Ending of the hidden folder next to an encoder that holds its checkpoints, and the file in it with their settings."""
READS = "sentence_bert_config.json"
"""File of sentence-transformers with the length that a model reads; copied, so that it stays as before training."""
LOOK = 10
"""Steps between two reads of the loss on a GPU."""
OnPairStep = Callable[[int, int, float], None]
"""Called with (steps done, total steps, loss)."""


class PairTrainer(Trainer):
    """Hugging Face's Trainer for PairModel. Tied weights are saved once; the optimiser is saved as Trainer does."""

    losses: dict[str, Tensor]

    def compute_loss(  # type: ignore[override]
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> Any:
        """The loss of one step. On a GPU it is checked every LOOK steps only, because reading it waits for all work.

        Raises:
            PretrainingError: the loss is not finite.
        """
        outputs = model(**inputs)
        step = self.state.global_step + 1
        if self._looks_at(step) and not torch.isfinite(outputs["loss"]):
            raise PretrainingError(
                f"the loss is {outputs['loss'].item()} at step {step}; lower learning_rate, or set precision: float32"
            )
        self.losses = {name: outputs[name].detach() for name in ("contrastive", "mlm")}
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _looks_at(self, step: int) -> bool:
        return self.args.device.type == "cpu" or step % LOOK == 0 or step in (1, self.state.max_steps)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Hugging Face's loader for a plain data set; the original takes a folder called datasets for their library."""
        loader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=self.args.train_batch_size,
            shuffle=True,
            drop_last=True,  # a smaller last batch would have fewer negatives
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        assert isinstance(self.model, nn.Module)
        save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = model or self.model
        assert isinstance(model, nn.Module)
        load_model(model, Path(resume_from_checkpoint) / WEIGHTS)


class OneDevice(TrainingArguments):
    """Hugging Face's settings, on one device for each process.

    The original settings take the first GPU, and split each batch of a single process over all visible GPUs: that
    changes the batch size, and negatives would come from a part of the batch only.
    """

    def __init__(self, own: torch.device, **settings: Any) -> None:
        self.own = own
        super().__init__(**settings)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        found = super().device  # connects the processes of torchrun, each with its own GPU
        if self.parallel_mode == ParallelMode.DISTRIBUTED:
            return found
        if self.own.type == "cuda":
            torch.cuda.set_device(self.own)  # accelerate uses the current device
        return self.own

    @property
    def n_gpu(self) -> int:
        """Number of GPUs of this process: one or none."""
        return min(1, int(super().n_gpu))


class _Notes(TrainerCallback):
    """Reports the progress, and marks complete checkpoints."""

    def __init__(self, progress: OnPairStep | None) -> None:
        self.progress = progress
        self.trainer: PairTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is None or self.trainer is None or not state.is_world_process_zero:
            return
        if self.trainer._looks_at(state.global_step):
            self.progress(state.global_step, state.max_steps, float(self.trainer.losses["contrastive"]))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


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
    Under torchrun every process calls this. Returns the record, which is also written to `out`/pretraining.json:
    settings, the pairs' hash, the losses, the retrieval of held-out pairs before and after training, and the names of
    the files.

    Raises:
        PairsError: the pairs can't be read, or are too few to train on.
        PretrainingError: a tokenizer of another model, a loss that is not finite, or checkpoints of another config.
        OutputError: `out` exists already, holds files that are not ours, or can't be written.
        FolderBusy: another process trains there.
    """
    if fresh:
        _refuse_foreign(out)
    elif out.exists():
        raise OutputError(f"{out} is there already; choose another folder with -o, or train again with --fresh")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    pairs = open_pairs(config.pairs, config.context, config.item, config.item_id, config.hard_negative)
    training, held_out = split_pairs(pairs, config.held_out, config.seed)
    steps = len(training) // config.batch_size
    if steps == 0:
        raise PretrainingError(
            f"{len(training)} training pairs are less than one batch of {config.batch_size}; lower batch_size"
        )
    target = out.resolve()  # a link keeps pointing to where the encoder is
    work = target.with_name(f".{target.name}.{WORK}")
    with contextlib.ExitStack() as stack:
        if _is_first():  # under torchrun the first process holds the lock for all
            refuse_foreign(work, {MARK, ".lock"}, {"*"})
            stack.enter_context(work_beside(target, WORK, f"the encoder {out}"))
        return _trained(config, start, pooling, target, work, pairs, training, held_out, fresh, progress)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


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
    identity = {**to_dict(config), "pairs_sha256": pairs.sha256, "start": str(start), "pooling": pooling}
    del identity["device"]  # it is the same training on any device
    checkpoint = _resume(work, identity, fresh)
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
    notes = _Notes(progress)
    trainer = PairTrainer(
        model=model,
        args=_arguments(config, work),
        train_dataset=training,
        data_collator=PairCollator(tokenizer, config.max_length, masked, config.seed),
        callbacks=[notes],
    )
    notes.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    before = _measure(model, tokenizer, held_out, config)
    set_seed(config.seed)
    logger.info("training on %d pairs of %d items, %d pairs held out", len(training), training.n_items, len(held_out))
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    record = {
        "config": to_dict(config),
        "pairs_sha256": pairs.sha256,
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
        _write(model, tokenizer, start, record, out)
    return record


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
    refuse_foreign(out, {RECORD}, ours)


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
        report_to=["tensorboard"] if config.tensorboard else [],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )


def _resume(work: Path, identity: dict[str, Any], fresh: bool) -> Path | None:
    """The last complete checkpoint of the same training, if there is one."""
    first, mark = _is_first(), work / MARK
    for folder in work.glob("checkpoint-*"):
        if first and (fresh or not (folder / WHOLE).is_file()):
            shutil.rmtree(folder, ignore_errors=True)
    whole = [folder for folder in work.glob("checkpoint-*") if (folder / WHOLE).is_file()]
    text = json.dumps(identity, indent=1, sort_keys=True)
    if whole and mark.is_file() and mark.read_text(encoding="utf-8") != text:
        known = json.loads(mark.read_text(encoding="utf-8"))
        changed = [name for name in sorted(identity) if known.get(name) != json.loads(text).get(name)]
        raise PretrainingError(
            f"{work} holds checkpoints of a training that used different settings ({', '.join(changed)}); "
            "restore these settings, or train again with --fresh"
        )
    if first:
        write_text(mark, text)
    return max(whole, key=lambda folder: int(folder.name.split("-")[1]), default=None)


def _measure(
    model: PairModel, tokenizer: PreTrainedTokenizerBase, held_out: TextPairs, config: PretrainConfig
) -> dict[str, float] | None:
    if len(held_out) == 0:
        return None
    return retrieval(embedder(model.encoder, tokenizer, model.pooling, config.max_length), held_out)


def _write(
    model: PairModel, tokenizer: PreTrainedTokenizerBase, start: Path, record: dict[str, Any], out: Path
) -> None:
    partial = partial_of(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    export(model, tokenizer, partial)
    if (start / READS).is_file():
        shutil.copyfile(start / READS, partial / READS)
    record |= {"schema": 1, "files": sorted(path.name for path in partial.iterdir())}
    write_text(partial / RECORD, json.dumps(record, indent=1, default=_plain) + "\n")
    _refuse_foreign(out)  # hours may have passed
    put_in_place(out)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else str(value)
