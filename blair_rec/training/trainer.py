"""RecBole's Trainer for our models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blair_rec.border.collector import TopKCollector
from blair_rec.config.plugin import PLUGIN_KEYS, PluginConfig, in_flat_keys, read_plugin_config
from blair_rec.config.section import to_dict
from blair_rec.config.sections import TextConfig, TrainConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.data.sequences import TrainingSequences, training_sequences
from blair_rec.errors import ConfigError
from blair_rec.models.packed import can_pack
from blair_rec.training.checkpoint import load_training, load_weights, make_folder, save_training
from blair_rec.training.epochs import EpochSteps, EveryPosition, RecboleWay, check_loss
from blair_rec.training.loop import make_optimizer, run_epoch
from blair_rec.training.optimizer import LearningRate
from blair_rec.training.stock.loss import stock_loss

from recbole.trainer import Trainer

ONLY_RECBOLES_WAY = ("clip_grad_norm", "enable_amp", "enable_scaler")
"""RecBole's keys that its own training step reads, but ours doesn't."""
MAY_CHANGE = (
    # Where the files are, where training runs, and what it prints.
    "checkpoint_dir", "data_path", "dataloaders_save_path", "dataset_save_path", "device", "gpu_id", "local_rank",
    "log_wandb", "loss_decimal_place", "metric_decimal_place", "save_dataloaders", "save_dataset", "show_progress",
    "state", "use_gpu", "wandb_project", "worker",
    # When training stops, and which metrics are computed besides valid_metric.
    "epochs", "eval_batch_size", "eval_step", "metrics", "stopping_step", "topk",
)  # fmt: skip
"""RecBole's keys that may change before a training is resumed. All others count, so no new one can be forgotten."""


class TextTrainer(Trainer):
    """RecBole's Trainer for our models: every-position steps, and checkpoints in safetensors instead of pickle."""

    saved_model_file: str
    _steps: EpochSteps
    _rate: LearningRate

    def __init__(self, config: Any, model: Any) -> None:
        self._plugin = read_plugin_config(config.external_config_dict)
        self._train = self._plugin.train.changed(
            loss=config["blair_loss"],
            batch_size=config["train_batch_size"],
            learning_rate=config["learning_rate"],
            weight_decay=config["weight_decay"],
            epochs=config["epochs"],
        )
        with in_flat_keys():
            check_loss(type(model), self._train)
        self._every_position = self._train.loss != "recbole" and can_pack(type(model))
        if self._every_position and (ignored := [key for key in ONLY_RECBOLES_WAY if config[key]]):
            raise ConfigError(
                f"{', '.join(ignored)} would have no effect: {type(model).__name__} is trained on every position by "
                "our own steps; leave it out, or set `blair_loss: recbole` to use RecBole's training step"
            )
        make_folder("checkpoint_dir", Path(config["checkpoint_dir"]))
        super().__init__(config, model)
        self.eval_collector = TopKCollector(config)
        model.scores_packed = self._every_position and model.scores_by_product
        self.saved_model_file = str(Path(self.saved_model_file).with_suffix(".safetensors"))
        self._store_sha256 = config["blair_store_sha256"]
        self._generators: dict[str, torch.Generator] = {}
        self._resume_from: Path | None = None

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        if self._every_position and self.learner.lower() == "adam":
            return make_optimizer(self.model, self._train)
        return super()._build_optimizer(**kwargs)

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        if not self._every_position:
            if not self.enable_amp:  # in RecBole's mixed precision, the model's own loss
                loss_func = loss_func or self._recboles_loss
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self._prepare(train_data)
        return run_epoch(self.model, self.optimizer, self._steps(epoch_idx + 1))

    def _recboles_loss(self, batch: Any) -> Tensor:
        """Return RecBole's loss [] of a batch, which takes less time on a CPU."""
        with self.model.shared_items():
            return stock_loss(self.model, batch)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.get("saved_model_file", self.saved_model_file))
        state = {
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "steps": self._rate.steps,
        }
        generators, store = self._generators, self._store_sha256
        save_training(path, self.model, self.optimizer, state, generators, self._settings, store_sha256=store)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """Train as RecBole's `fit` does; after resume_checkpoint, resume with the epoch after the checkpoint's.

        Raises:
            CheckpointError: a checkpoint of other settings, data or model, or trained on another store.
            TrainingError: a loss that is not finite.
        """
        self._prepare(train_data)
        if self._resume_from is not None:
            path, self._resume_from = self._resume_from, None
            generators, store = self._generators, self._store_sha256
            state, _ = load_training(path, self.model, self.optimizer, generators, self._settings, store)
            self.start_epoch, self.cur_step = state["epoch"] + 1, state["cur_step"]
            self.best_valid_score = state["best_valid_score"]
            self._rate.go_on_from(state["steps"])
            self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")
        return super().fit(train_data, *args, **kwargs)

    def _prepare(self, train_data: Any) -> None:
        """Set up what needs the training data, on the first call only."""
        if hasattr(self, "_rate"):
            return
        train, width, seed = self._train, self.config["MAX_ITEM_LIST_LENGTH"], self.config["seed"]
        if train_data.generator is None:  # RecBole takes it away when it saves the data (save_dataloaders)
            train_data.generator = train_data.sampler.generator = torch.Generator().manual_seed(seed)
        self._generators = {"loader": train_data.generator}
        sequences = training_sequences(train_data._dataset)
        self.model.count(sequences)
        self._settings = self._settings_of_training(sequences)
        if self._every_position:
            self._steps = EveryPosition(self.model, sequences, width, train, seed)
        else:
            self._steps = RecboleWay(self.model, train_data)
        total = self.epochs * len(self._steps)
        self._rate = LearningRate(self.optimizer, self.learning_rate, train.warmup_steps, train.schedule, total)

    def _settings_of_training(self, sequences: TrainingSequences) -> dict[str, Any]:
        """Return all that the weights and the best validation score depend on. The hash of the store is apart."""
        sections = {
            VariantConfig: self._plugin.variant,
            TextConfig: self._plugin.text,
            TrainConfig: self._train,
            PluginConfig: self._plugin,
        }
        known = self.config.final_config_dict.items()
        kept = {key: value for key, value in known if key not in MAY_CHANGE and not key.startswith("blair_")}
        ours = {
            key: to_dict(getattr(sections[cls], name))
            for key, (cls, name) in PLUGIN_KEYS.items()
            if cls is not TextConfig or name == "missing_text"  # the hash of the store covers the others
        }
        end = {} if self._train.schedule == "constant" else {"epochs": self.epochs}
        data = hashlib.sha256()
        for part in (sequences.items, sequences.offsets, sequences.is_target):
            data.update(part.tobytes())
        return {**kept, **ours, **end, "training events": data.hexdigest()[:12]}

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Make the next `fit` resume from a checkpoint of this trainer."""
        self._resume_from = Path(resume_file)
        self.saved_model_file = str(resume_file)

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        """Evaluate as RecBole's `evaluate` does; the best weights are read from safetensors.

        Raises:
            CheckpointError: no such file, weights of another model, or trained on another store.
        """
        if eval_data and load_best_model:
            load_weights(self.model, Path(model_file or self.saved_model_file), self._store_sha256)
        self.model.eval()
        with torch.no_grad(), self.model.shared_items(), self.model.scores_overwritten():
            return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
