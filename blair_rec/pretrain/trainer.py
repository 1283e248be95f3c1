"""Hugging Face's Trainer, adapted to PairModel: batches made in the background, one device for each process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.training_args import ParallelMode

from blair_rec.device import moved
from blair_rec.errors import PretrainingError
from blair_rec.pretrain.batches import Batch, PairCollator
from blair_rec.pretrain.pairs import TextPair

WEIGHTS, WHOLE = "model.safetensors", "whole"
"""Files of a checkpoint: the weights, and an empty one that marks it as complete."""
COMING = "coming"
LOOK = 10
"""Steps between two reads of the loss on a GPU."""
SAVED_WITHIN = 600.0
"""Seconds after which a process alone saves a checkpoint, even if `save_steps` are not done."""
OnPairStep = Callable[[int, int, float], None]
"""Called with (steps done, total steps, loss)."""


class InBackground:
    """A collator that returns at once: the batch is made by another thread, while the model computes."""

    def __init__(self, collator: PairCollator, thread: Executor) -> None:
        self.collator, self.thread = collator, thread

    def __call__(self, pairs: Sequence[TextPair]) -> dict[str, Future[Batch]]:
        """Return the batch that will be there, under the key COMING."""
        return {COMING: self.thread.submit(self.collator, pairs)}


class PairTrainer(Trainer):
    """Hugging Face's Trainer for PairModel. Tied weights are saved once; the optimiser is saved as Trainer does."""

    losses: dict[str, Tensor]

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """Wait for the batch, and bring its tensors to the device without waiting for the GPU's running work."""
        batch: Batch = inputs[COMING].result()
        device = self.args.device
        return {name: moved(one, device) if isinstance(one, Tensor) else one for name, one in batch.items()}

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
        return self.accelerator.prepare(loader)

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


class Notes(TrainerCallback):
    """Reports the progress, asks for checkpoints where steps are slow, has losses recorded before them, marks them."""

    def __init__(self, progress: OnPairStep | None) -> None:
        self.progress = progress
        self.trainer: PairTrainer | None = None
        self._saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Several processes save together, and their clocks would not agree on a step.
        if args.world_size == 1 and time.monotonic() - self._saved > SAVED_WITHIN:
            control.should_save = True
        # The record would lack the steps after the last multiple of LOOK. A checkpoint holds no losses since the last
        # record, so a resumed training would lack them.
        if state.global_step == state.max_steps or control.should_save:
            control.should_log = True
        if self.progress is None or self.trainer is None or not state.is_world_process_zero:
            return
        if self.trainer._looks_at(state.global_step):
            self.progress(state.global_step, state.max_steps, float(self.trainer.losses["contrastive"]))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()
