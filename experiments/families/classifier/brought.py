"""A network from a file of published weights: saved as a checkpoint of the run, which goes on as with --checkpoint."""

import dataclasses
import pathlib
import shutil
from typing import TypeVar

from experiments.families.classifier import data, network
from subspace_jax import nn
from subspace_jax.checkpoint.folder import whole
from subspace_jax.core import processes
from subspace_jax.data import inputs

FOLDER = "brought"


@dataclasses.dataclass(frozen=True)
class BroughtConfig(data.Config):
    """Flags of the experiments that also take a network whose training nobody here has seen."""

    weights: str = ""
    """File of published weights for --model vit_b16, vit_s16, resnet50 or resnet18_imagenet, which is not trained then:
    .npz of the original ViT, .safetensors of timm, torchvision, Hugging Face; see nn.weights."""
    outputs: tuple[int, ...] = ()
    """Outputs of --weights that are the classes of the data, in their order; all when not given."""


B = TypeVar("B", bound=BroughtConfig)


def given(config: B) -> B:
    """The flags of the network at --checkpoint or in --weights; as they are where one is to be trained."""
    if config.weights:
        config = bring(config)
    return network.adopt(config) if config.checkpoint else config


def bring(config: B) -> B:
    """Save the network in --weights as a checkpoint: one seed, no planted labels, the scaling of its source.

    Its config says "weights": where it comes from. The recipe there is that of the flags, with which a baseline would
    train; how the network itself was trained is not known.

    Raises:
      ValueError: --checkpoint too; weights that do not fit the network, the images or the classes.
      FileNotFoundError: no such file.
    """
    if config.checkpoint:
        raise ValueError(
            f"--weights {config.weights} and --checkpoint {config.checkpoint} are two networks: give one of them."
        )
    folder = pathlib.Path(config.workdir) / FOLDER
    if not config.resume and processes.first():
        shutil.rmtree(folder, ignore_errors=True)  # left by flags that were refused
    if not processes.told(bool(whole(folder / f"seed{config.seed}"))):
        _save(dataclasses.replace(config, widths=(), noise=0.0, duplicates=0), folder)
    return dataclasses.replace(config, checkpoint=str(folder))


def _save(config: BroughtConfig, folder: pathlib.Path) -> None:
    shared = data.setup(config, test=False)
    try:
        loaded = nn.weights.load(
            config.weights, shared.network, image_shape=inputs(shared.columns).shape[1:],
            outputs=config.outputs or None,
        )  # fmt: skip
    except ImportError as error:
        raise ValueError(str(error)) from error
    saved = data.checkpoint_config(config, shared, config.seed) | loaded.config
    network.save_network(str(folder / f"seed{config.seed}"), config.seed, loaded.variables, saved)
