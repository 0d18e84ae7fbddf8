"""Many inputs through one `Enhancer`: `plan_jobs` says what is to be done, `enhance_files` does it.

What comes or goes through a pipe is for `enhance_pipe`, and what arrives in a folder for `watch`.

options = EnhanceOptions()
enhancer = Enhancer.load()
for record in enhance_files(plan_jobs("recordings", "clean", options), enhancer, options):
    print(record.status, record.input)
"""

from enhance_ray.files.pipes import STANDARD, enhance_pipe, is_pipe
from enhance_ray.files.plan import Job, done_before, output_extension, plan_jobs, target_format
from enhance_ray.files.progress import Progress
from enhance_ray.files.recover import Recovery, recover
from enhance_ray.files.run import enhance_files
from enhance_ray.files.watch import watch

__all__ = [
    "STANDARD",
    "Job",
    "Progress",
    "Recovery",
    "done_before",
    "enhance_files",
    "enhance_pipe",
    "is_pipe",
    "output_extension",
    "plan_jobs",
    "recover",
    "target_format",
    "watch",
]
