"""Batches of images that are decoded, resized and cropped on a GPU, while threads read those that come next."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from utils.images.decoding import Batch, Picture, crop_with_pil, decode, plain_jpeg_size, read_picture, require_decoder
from utils.images.folders import ImageList
from utils.images.resizing import CropWindows, crop_windows, cut_and_pad, resize_windows
from utils.images.transform import Transform

BATCHES_AHEAD = 4
DECODING_THREADS = 2  # one decodes while the other one cuts what it has decoded
FILES_A_TASK = 16
PIXELS_A_GROUP = 2**26  # 1 GB of memory while it is resized

Windows = tuple[Tensor, CropWindows]  # padded windows, and where they lie


@dataclass
class DecodedBatch:
    """A Batch before resizing.

    Parameters
    ----------
    groups : list of (padded windows, CropWindows)
        Decoded images on the device, to be resized.
    order : LongTensor
        Brings the images of the groups, one after the other, and then those that PIL has decoded into the order of the
        batch's ``indices``.
    batch : Batch
        Its ``crops`` are those that PIL has decoded.
    """

    groups: list[Windows]
    order: Tensor
    batch: Batch

    def device_tensors(self) -> list[Tensor]:
        windows = [values for _, windows in self.groups for values in vars(windows).values()]
        return [padded for padded, _ in self.groups] + windows + [self.batch.crops, self.order]


class DeviceBatches:
    """Iterate over Batches whose images are decoded, resized and cropped on a device.

    ``num_workers`` threads read files ahead and let PIL decode what is not plain JPEG. Two more threads decode on the
    device, each in its own CUDA stream. The iterating thread resizes, in the network's stream. (Resizing in another
    thread would see the precision of matrix products change whenever the network is called with TF32.)

    Parameters
    ----------
    images : ImageList
    transform : Transform
    batches : list of list of int
    num_workers : int
    device : torch.device
        CUDA, or for tests a CPU.

    Raises
    ------
    UserError
        This torchvision cannot decode there.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        batches: Sequence[Sequence[int]],
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.images = images
        self.transform = transform
        self.batches = batches
        self.device = device
        self.num_readers = max(num_workers, 1)
        DecodingStreams(device).wait()
        require_decoder(device, "gpu")

    def __iter__(self) -> Iterator[Batch]:
        streams = DecodingStreams(self.device)
        readers = ThreadPoolExecutor(self.num_readers, "read")
        decoders = ThreadPoolExecutor(DECODING_THREADS, "decode", streams.enter)
        ahead: deque[Future[DecodedBatch]] = deque()
        try:
            for batch in self.batches:
                tasks = [batch[start : start + FILES_A_TASK] for start in range(0, len(batch), FILES_A_TASK)]
                reading = [readers.submit(self._read, task) for task in tasks]
                ahead.append(decoders.submit(self._decode, reading, streams))
                if len(ahead) > BATCHES_AHEAD:
                    yield self._resize(ahead.popleft().result(), streams)
            while ahead:
                yield self._resize(ahead.popleft().result(), streams)
        finally:
            for threads in (readers, decoders):
                threads.shutdown(cancel_futures=True)

    def _read(self, indices: Sequence[int]) -> list[Picture]:
        return [self._picture(index) for index in indices]

    def _picture(self, index: int) -> Picture:
        picture = read_picture(self.images, index)
        if picture.reason is None:
            picture.size = plain_jpeg_size(picture.data)
            if picture.size is None:
                picture.decode(crop_with_pil, self.transform)
        return picture

    def _decode(self, reading: Sequence[Future[list[Picture]]], streams: "DecodingStreams") -> DecodedBatch:
        """A DecodedBatch of the pictures that the reading threads have read."""
        pictures = [picture for task in reading for picture in task.result()]
        encoded = [picture for picture in pictures if picture.size is not None]
        groups: list[Windows] = []
        decoded: list[Picture] = []
        for group in groups_of_similar_size(encoded, PIXELS_A_GROUP):
            decoded_of_group, windows = self._decode_group(group, streams)
            groups += windows
            decoded += decoded_of_group
        cropped = [picture for picture in pictures if picture.crop is not None]
        pil_crops = [picture.crop for picture in cropped if picture.crop is not None]
        number_of = {picture: number for number, picture in enumerate(pictures)}
        size = self.transform.crop_size
        crops = torch.stack(pil_crops) if pil_crops else torch.empty(0, size, size, 3, dtype=torch.uint8)
        order = torch.tensor([number_of[picture] for picture in decoded + cropped], dtype=torch.long).argsort()
        batch = DecodedBatch(groups, order.to(self.device), Batch.of(pictures, crops.to(self.device)))
        streams.wait()
        return batch

    def _decode_group(
        self, group: Sequence[Picture], streams: "DecodingStreams"
    ) -> tuple[list[Picture], list[Windows]]:
        """The pictures that could be decoded, and a list of their windows; PIL decodes the others."""
        images = decode([picture.data for picture in group], self.device)
        for picture, image in zip(group, images, strict=True):
            if image is None:
                picture.is_refused = True
                picture.decode(crop_with_pil, self.transform)
        decoded = [picture for picture, image in zip(group, images, strict=True) if image is not None]
        if not decoded:
            return [], []
        windows = crop_windows(torch.tensor([picture.size for picture in decoded]), self.transform)
        padded = cut_and_pad([image for image in images if image is not None], windows)
        windows = windows.to(self.device)
        streams.wait()
        return decoded, [(padded, windows)]

    def _resize(self, decoded: DecodedBatch, streams: "DecodingStreams") -> Batch:
        streams.hand_over(decoded.device_tensors())
        interpolation = self.transform.interpolation
        crops = [resize_windows(padded, windows, interpolation) for padded, windows in decoded.groups]
        return replace(decoded.batch, crops=torch.cat([*crops, decoded.batch.crops])[decoded.order])


def groups_of_similar_size(pictures: Sequence[Picture], pixels: int) -> list[list[Picture]]:
    """Cut pictures, smallest first, into groups that, padded to their largest picture, have at most ``pixels`` pixels.

    So a huge picture does not enlarge the padded batch of all the others.
    """
    groups: list[list[Picture]] = []
    for picture in sorted(pictures, key=lambda picture: picture.num_pixels):
        if not groups or (len(groups[-1]) + 1) * picture.num_pixels > pixels:
            groups.append([])
        groups[-1].append(picture)
    return groups


@cache
def _cuda_streams(device: torch.device) -> list[torch.cuda.Stream]:
    # the same ones in every pass: memory that was used in one stream is not reused in others
    return [torch.cuda.Stream(device) for _ in range(DECODING_THREADS)] if device.type == "cuda" else []


class DecodingStreams:
    """The CUDA streams of the decoding threads; on a CPU there are none, and the methods do nothing.

    torchvision decodes in a private stream, into memory that PyTorch regards as free once its last use has been queued.
    So a decoding thread has to ``wait`` for everything it has queued before it frees an image.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.free = deque(_cuda_streams(device))
        self.handed_over: deque[torch.cuda.Event] = deque()

    def enter(self) -> None:
        """Let the calling thread use one of the streams."""
        if self.free:
            torch.cuda.set_stream(self.free.pop())

    def wait(self) -> None:
        """Wait until the device has done everything that the calling thread has queued."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        """Let the calling thread's stream use tensors of another stream that has waited.

        The calling thread waits until at most two of its batches are queued, which bounds the memory of these batches.
        """
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            for tensor in tensors:
                tensor.record_stream(stream)
            self.handed_over.append(stream.record_event())
            if len(self.handed_over) > 2:
                self.handed_over.popleft().synchronize()
