"""Source of a video's model: the weights, their precision, and files that replace parts of it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wantui.controls.lora import LoraFile, LoraRequest

ModelDtype = Literal["bfloat16", "float32"]
WeightsForm = Literal["full", "float8", "int8", "gguf"]


class TransformerFile(BaseModel):
    """A GGUF file that replaces a model's transformer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Absolute path."""
    fingerprint: str
    bytes: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ModelSource:
    """Model, revision, precision and replaced parts of a recipe."""

    model: str
    """Short name or hub id of a catalogued model, or the path of a local directory."""
    revision: str | None
    """Commit, tag or branch of a hub model; the fingerprint of a local directory."""
    dtype: ModelDtype
    weights: WeightsForm
    transformer_file: TransformerFile | None = None
    lora: LoraRequest | None = None
    """Adapters that are merged into the weights."""

    @property
    def base_identity(self) -> tuple[str | None, ...]:
        """Return a key that sources share if they give equal weights in memory, before adapters are merged."""
        file = self.transformer_file
        # Includes the path, because loading reads that path even where another file has the same fingerprint.
        return (self.model, self.revision, self.dtype, self.weights, *((file.path, file.fingerprint) if file else ()))

    @property
    def identity(self) -> tuple[Any, ...]:
        """Return the key of equal weights in memory; a loaded pipeline serves recipes with an equal key only."""
        return (*self.base_identity, *self.merged_files)

    @property
    def merged_files(self) -> tuple[tuple[LoraFile, float, bool], ...]:
        """Return file and strength of each merged adapter, and whether it changes the second transformer."""
        if self.lora is None:
            return ()
        return tuple(
            (file, strength, is_second)
            for is_second in (False, True)
            for _, file, strength in self.lora.list_merged_files(is_second)
        )

    @property
    def weights_id(self) -> str | None:
        """Return the identity of the transformer's weights, or None if unknown."""
        if self.revision is None:
            return None
        file_ids = [] if self.transformer_file is None else [self.transformer_file.fingerprint]
        file_ids += [
            f"{file.fingerprint}*{strength!r}{'_2' if is_second else ''}"
            for file, strength, is_second in self.merged_files
        ]
        return "+".join([self.revision, *file_ids])

    @property
    def cost_key(self) -> tuple[str | int | None, ...]:
        """Return the key of equal time and memory per operation; it ignores revisions."""
        size = None if self.transformer_file is None else self.transformer_file.bytes
        return self.model, self.dtype, self.weights, size

    @property
    def comparison_settings(self) -> dict[str, Any]:
        """Return the settings that trajectories must share to be compared, in display form."""
        file = self.transformer_file
        return {
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "weights": self.weights,
            "transformer_file": None if file is None else file.fingerprint[:8],
        }
