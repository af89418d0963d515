"""Training: configuration, initialisation, head warm-up, fine-tuning, learning-rate range test."""

from covidxr.training.fit import TrainingConfig, fit, initialise, train_network, warm_up_head
from covidxr.training.head import fit_head, lr_range_test

__all__ = ["TrainingConfig", "fit", "fit_head", "initialise", "lr_range_test", "train_network", "warm_up_head"]
