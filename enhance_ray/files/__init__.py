"""Many inputs through one `Enhancer`: `plan_jobs` says what is to be done, `enhance_files` does it.

options = EnhanceOptions()
enhancer = Enhancer.load()
for record in enhance_files(plan_jobs("recordings", "clean", options), enhancer, options):
    print(record.status, record.input)
"""

from enhance_ray.files.plan import Job, done_before, output_extension, plan_jobs, target_format
from enhance_ray.files.run import Progress, enhance_files

__all__ = [
    "Job",
    "Progress",
    "done_before",
    "enhance_files",
    "output_extension",
    "plan_jobs",
    "target_format",
]
