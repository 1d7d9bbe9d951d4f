"""QuiltInstallOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._base import airflow_errors
from airflow_quilt.operators._checks import OF_INSTALLS, Check
from airflow_quilt.operators._values import attempt_of, flag
from airflow_quilt.operators.read import QuiltReadOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from openlineage.client.event_v2 import Dataset


class QuiltInstallOperator(QuiltReadOperator):
    """Install the files of a package to a directory of the worker, or to a prefix on S3.

    Every byte is checked against the package before a file takes its name. Files that are already right are not downloaded
    again; other files are left alone.

    Takes the parameters of :class:`~airflow_quilt.operators.read.QuiltReadOperator`.

    :param dest: the directory, or an ``s3://`` prefix; it need not exist. A single file lands under its name, files below a
        directory of the package under their paths from there.
    :param return_paths: return the list of files too, which all goes to XCom: for packages of a few thousand files at most.
    """

    required: ClassVar[frozenset[str]] = QuiltReadOperator.required | {"dest"}
    checks: ClassVar[Mapping[str, Check]] = OF_INSTALLS
    template_fields: Sequence[str] = (*QuiltReadOperator.template_fields, "dest", "return_paths")

    def __init__(self, *, dest: Any, return_paths: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dest = dest
        self.return_paths = return_paths

    def execute(self, context: "Context") -> dict[str, Any]:
        """Install; return the revision, the counts, and the paths if they are asked for, as plain values."""
        from airflow_quilt.core.install import install

        with airflow_errors(self):
            target, reference = self.locate()
            return_paths = flag("return_paths", self.return_paths)
            installed = install(target.registry, reference, self.dest, attempt=attempt_of(context))
            return self.finish(
                target.to_xcom(
                    reference.package,
                    installed.top_hash,
                    files=len(installed.paths),
                    bytes=installed.bytes,
                    reused=installed.reused,
                    checksum_only=installed.checksum_only,
                    paths=installed.paths if return_paths else None,
                )
            )

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the directory or prefix."""
        from airflow_quilt.assets._lineage import location_dataset, output_dataset
        from airflow_quilt.core.registry.selection import parse_destination

        destination = location_dataset(parse_destination(self.dest))
        return [output_dataset(destination, size=outcome["bytes"], fileCount=outcome["files"])]
