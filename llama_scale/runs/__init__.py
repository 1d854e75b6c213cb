"""Runs: what one is (`configs`, `data`), its folder on disk (`folders`), what it left behind (`records`).

`leases` say who may write one; `tables` writes and reads records as CSV and Parquet, `upkeep` looks
after a store.
"""

from llama_scale.runs.configs import (
    Branch,
    DecayShape,
    OptimizerConfig,
    OptimizerKind,
    Precision,
    RunConfig,
    RunRole,
    ScheduleConfig,
    ScheduleKind,
    run_id,
)
from llama_scale.runs.data import (
    BUILTIN,
    HUB,
    MIXTURE_BLOCK,
    DataConfig,
    SourceConfig,
    TokenizerName,
    apportion,
)
from llama_scale.runs.folders import (
    CHECKPOINT_MANIFEST,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_RETRY,
    INITIAL_WEIGHTS,
    PASSED_OVER,
    WEIGHTS,
    EventLog,
    LossCurve,
    RunFolder,
    branches_by_trunk,
    branches_of,
    create_run,
    create_runs,
    find_run,
    run_folders,
)
from llama_scale.runs.leases import BusyError
from llama_scale.runs.listing import import_records, read_records
from llama_scale.runs.records import RunRecord, RunStatus, load_records, read_record, write_records

__all__ = [
    "BUILTIN",
    "CHECKPOINT_MANIFEST",
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_RETRY",
    "HUB",
    "INITIAL_WEIGHTS",
    "MIXTURE_BLOCK",
    "PASSED_OVER",
    "WEIGHTS",
    "Branch",
    "BusyError",
    "DataConfig",
    "DecayShape",
    "EventLog",
    "LossCurve",
    "OptimizerConfig",
    "OptimizerKind",
    "Precision",
    "RunConfig",
    "RunFolder",
    "RunRecord",
    "RunRole",
    "RunStatus",
    "ScheduleConfig",
    "ScheduleKind",
    "SourceConfig",
    "TokenizerName",
    "apportion",
    "branches_by_trunk",
    "branches_of",
    "create_run",
    "create_runs",
    "find_run",
    "import_records",
    "load_records",
    "read_record",
    "read_records",
    "run_folders",
    "run_id",
    "write_records",
]
