"""jobs/pretrain.py, whose workers keep records: `python tests/chaos/recorded_pretrain.py RECORDS_FOLDER ARGUMENTS`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import clip_records

from discovr_ray.launch import supervise
from jobs import pretrain

if __name__ == "__main__":
    folder = sys.argv.pop(1)
    with patch.object(supervise, "run_worker_on_ray", partial(clip_records.run_recorded, folder)):
        sys.exit(pretrain.main())
