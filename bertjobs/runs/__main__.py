"""`python -m bertjobs.runs JOB ATTEMPT TOKEN`: the entrypoint of a Ray Job, one attempt at one job.

A module of its own because `-m` needs one; the driver is in `bertjobs.runs.driver`.
"""

import sys

from bertjobs.runs.driver import main

if __name__ == "__main__":
    job_id, attempt, token = sys.argv[1:]
    sys.exit(main(job_id, attempt=int(attempt), token=int(token)))
