"""The errors a user may see: each message is one sentence with what is wrong, the value, and what to do."""


class MileError(Exception):
    """Base of every error raised on purpose by mile_edge."""


class BundleError(MileError):
    """A bundle on disk is missing, damaged, of another schema, or full."""


class ExpertError(MileError):
    """An expert file does not fit the bundle, or is not an expert file."""


class FusionError(MileError):
    """A fusion head does not fit the bundle or is none, or there is nothing to fuse."""


class BagError(MileError):
    """A bag cannot be opened, or holds nothing that can be replayed."""


class SensorError(MileError):
    """An image's encoding, size or layout cannot be mapped to a frame."""


class DataError(MileError):
    """A data set folder is missing something or contradicts itself."""


class RecipeError(MileError):
    """A recipe or option names something that does not exist or cannot work."""


class BackendError(MileError):
    """An inference backend is missing or refused a model."""


class TransferError(MileError):
    """A file cannot be copied from or to another place, or is not the one that was announced."""
