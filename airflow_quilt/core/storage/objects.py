"""Objects of a store: their metadata, the small ones that are read whole, and the conditions of writes."""

from dataclasses import dataclass, field
from typing import Final, Literal

from airflow_quilt.core.errors import HashTypeError, ObjectTooLargeError
from airflow_quilt.core.format.hashes import Hash, algorithm, composite_hash
from airflow_quilt.core.format.uris import PhysicalKey

CHUNK: Final = 1024 * 1024
"""The most bytes of a chunk."""

Data = bytes | memoryview
"""The bytes of an object or part in memory."""

MOST_TEXT: Final = 1024 * 1024
"""The most bytes of a text that people write: a workflows config, a schema, ``.quiltignore``."""

MOST_WHOLE: Final = 64 * 1024 * 1024
"""The most bytes of an object that is read whole, unless a storage is given another bound."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Write only if the object still has this ETag."""

    etag: str


WriteMode = Literal["create", "overwrite"] | IfMatch
"""``"create"`` writes only if there is no object yet, ``"overwrite"`` always, :class:`IfMatch` only over the state it names."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small object, read whole.

    Attributes:
        data: its bytes.
        etag: its ETag, for :class:`IfMatch`.
        key: its key, with the version that was read where the store has versions.
        writer_tag: the writer tag that it was written with; None where there was none, or the store cannot keep one.
    """

    data: bytes
    etag: str
    key: PhysicalKey
    writer_tag: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Metadata of an object, as a store states it.

    Attributes:
        key: its key; with its version where the store has versions and the answer named one, which listings do not.
        size: bytes.
        etag: an opaque `str` that changes when the bytes do, in the form that the store states it; empty where a listing states
            none that is reliable.
        sha256: S3's ``ChecksumSHA256``, base64, with ``-N`` after it for N parts; None where the object has none or none was
            requested.
        crc64nvme: S3's ``ChecksumCRC64NVME``, base64; None likewise.
        written: in a listing, differs between any two writings of the object, also of the same bytes; empty where that is not
            certain. Of a file on the disk, the time at which anything of it changed last. It is not compared.
    """

    key: PhysicalKey
    size: int
    etag: str
    sha256: str | None = None
    crc64nvme: str | None = None
    written: str = field(default="", compare=False)

    def proven(self, hash_type: str) -> Hash | None:
        """Return the hash of a type that the store's checksums prove; None if they prove none, or the type is unknown."""
        try:
            return algorithm(hash_type).proven(self.size, self.sha256, self.crc64nvme)
        except HashTypeError:
            return None

    def proves(self, expected: Hash) -> bool:
        """Return whether the store's checksums prove that the object has a hash."""
        return self.proven(expected.type) == expected or composite_hash(self.sha256, self.size) == expected

    def contradicts(self, expected: Hash) -> bool:
        """Return whether the store's checksums prove that the object does not have a hash."""
        return self.proven(expected.type) not in {None, expected}


def check_whole(key: PhysicalKey, size: int, most: int) -> None:
    """Check that an object is small enough to be read whole.

    Raises:
        ObjectTooLargeError: it has more than ``most`` bytes.
    """
    if size > most:
        raise ObjectTooLargeError(
            f"it has {size:,} bytes, and no more than {most:,} are read at once; check its content and its writer", str(key)
        )
