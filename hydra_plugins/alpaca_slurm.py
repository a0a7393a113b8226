"""hydra/launcher=slurm: hydra-submitit-launcher, with the jobs composed here, at submission, and run from a copy of the code.

Hydra finds launchers in this namespace package only; what a job does is in alpaca/slurm_job.py.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict


class AlpacaSlurmLauncher(Launcher):
    """Submit every job of a sweep with the nodes and GPUs of its own `launch.*`; wait for them or not."""

    def __init__(self, **params: Any) -> None:
        # Hydra reads this file with every command, and the launcher beneath is wanted by few of them
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

        self.submitit = SlurmLauncher(**params)

    def setup(self, **given: Any) -> None:
        """Take the context, the task and the config of the sweep."""
        self.submitit.setup(**given)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose, write and submit each job. Returns nothing: what became of a job is in its run folder."""
        from alpaca import cli, slurm

        setup_globals()
        config, context = self.submitit.config, self.submitit.hydra_context
        assert config is not None and context is not None
        composed = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            job = context.config_loader.load_sweep_config(config, list(overrides))
            with open_dict(job):
                job.hydra.job.num = job.hydra.job.id = number
            folder = OmegaConf.select(job, "hydra.sweep.subdir")
            plain: Any = OmegaConf.to_container(job, resolve=False)
            plain.pop("hydra")
            plain = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
            composed.append(slurm.Composed(str(folder), list(job.hydra.overrides.task), plain))
        sweep = str(config.hydra.sweep.dir)
        cli.with_errors(lambda: slurm.submit(composed, sweep, dict(self.submitit.params)))
        return []
