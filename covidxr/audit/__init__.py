"""The shortcut audit, its registry of probes, and generalisation to held-out groups."""

from covidxr.audit.generalization import HeldOutGroups, HeldOutReport, leave_one_source_out
from covidxr.audit.probes import AuditData, ProbeResult, register_probe
from covidxr.audit.report import AuditReport, shortcut_audit

__all__ = [
    "AuditData",
    "AuditReport",
    "HeldOutGroups",
    "HeldOutReport",
    "ProbeResult",
    "leave_one_source_out",
    "register_probe",
    "shortcut_audit",
]
