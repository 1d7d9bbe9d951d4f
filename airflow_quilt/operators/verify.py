"""QuiltVerifyOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._base import airflow_errors
from airflow_quilt.operators._checks import OF_VERIFICATIONS, Check
from airflow_quilt.operators._values import flag
from airflow_quilt.operators.read import QuiltReadOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class QuiltVerifyOperator(QuiltReadOperator):
    """Verify that files or objects hold exactly the bytes that a package names; fail with a list of the differences.

    Takes the parameters of :class:`~airflow_quilt.operators.read.QuiltReadOperator`.

    :param src: the directory or ``s3://`` prefix to verify; by default the objects that the package itself names.
    :param extra_files_ok: allow files that the package does not name.
    :param read_all: read every byte of objects; without it, the checksum that the store has of an object counts as proof. Local
        files are always read.
    """

    checks: ClassVar[Mapping[str, Check]] = OF_VERIFICATIONS
    template_fields: Sequence[str] = (*QuiltReadOperator.template_fields, "src", "extra_files_ok", "read_all")

    def __init__(self, *, src: Any = None, extra_files_ok: bool = False, read_all: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.src = src
        self.extra_files_ok = extra_files_ok
        self.read_all = read_all

    def execute(self, context: "Context") -> dict[str, Any]:  # noqa: ARG002
        """Verify; return the revision and the counts as plain values."""
        from airflow_quilt.core.verify import verify

        with airflow_errors(self):
            target, reference = self.locate()
            found = verify(target.registry, reference, self.src, read_all=flag("read_all", self.read_all))
            outcome = self.finish(
                target.to_xcom(
                    reference.package,
                    found.top_hash,
                    entries=found.entries,
                    bytes=found.bytes,
                    extra=len(found.extra),
                    checksum_only=found.checksum_only,
                )
            )
            found.check(extra_files_ok=flag("extra_files_ok", self.extra_files_ok))
            return outcome
