"""hydra/launcher=slurm: hydra-submitit-launcher, with the jobs composed here, at submission, and run from a copy of the code.

Hydra finds launchers in this namespace package only; what a job does is in alpaca/slurm_job.py.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, setup_globals
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import OmegaConf, open_dict


class AlpacaSlurmLauncher(SlurmLauncher):
    """Submit every job of a sweep with the nodes and GPUs of its own `launch.*`; wait for them or not."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose, write and submit each job. Returns nothing: what became of a job is in its run folder."""
        from alpaca import cli, slurm

        setup_globals()
        assert self.config is not None and self.hydra_context is not None
        composed = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(job):
                job.hydra.job.num = job.hydra.job.id = number
            folder = OmegaConf.select(job, "hydra.sweep.subdir")
            plain: Any = OmegaConf.to_container(job, resolve=False)
            plain.pop("hydra")
            plain = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
            composed.append(slurm.Composed(str(folder), list(job.hydra.overrides.task), plain))
        sweep = str(self.config.hydra.sweep.dir)
        cli.with_errors(lambda: slurm.submit(composed, sweep, dict(self.params)))
        return []
