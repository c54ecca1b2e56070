"""Batches of images that are decoded, resized and cropped on a GPU, while threads read those that come next."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import torch

from utils.images.decoding import Batch, crop_with_pil, decode, plain_jpeg_size, read_picture, require_decoder
from utils.images.resizing import crop_windows, cut_and_pad, resize_windows

BATCHES_AHEAD = 4
DECODING_THREADS = 2  # one decodes while the other one cuts what it has decoded
FILES_A_TASK = 16
PIXELS_A_GROUP = 2**26  # 1 GB of memory while it is resized


@dataclass
class DecodedBatch:
    """A Batch on its way: ``groups`` of (padded windows, CropWindows) on the device, to be resized.

    Of ``batch`` the ``crops`` are those of PIL so far. ``order`` brings the images of all these, one after the other,
    into the order of its ``indices``.
    """

    groups: list
    order: torch.Tensor
    batch: Batch

    def device_tensors(self):
        windows = [values for _, windows in self.groups for values in vars(windows).values()]
        return [padded for padded, _ in self.groups] + windows + [self.batch.crops, self.order]


class DeviceBatches:
    """Iterate over Batches whose images are decoded, resized and cropped on a device.

    ``num_workers`` threads read files ahead and leave to PIL what is not plain JPEG; two more threads decode on the
    device, each in a CUDA stream of its own; the iterating thread resizes, in the network's stream. (Resizing in
    another thread would see the precision of matrix products change whenever the network is called with TF32.)

    Parameters
    ----------
    images : ImageList
    transform : Transform
    batches : list of list of int
    num_workers : int
    device : torch.device
        CUDA. A CPU does the same, for tests.

    Raises
    ------
    UserError
        This torchvision cannot decode there.
    """

    def __init__(self, images, transform, batches, num_workers, device):
        self.images, self.transform, self.batches, self.device = images, transform, batches, device
        self.num_readers = max(num_workers, 1)
        DecodingStreams(device).wait()
        require_decoder(device, "gpu")

    def __iter__(self):
        streams = DecodingStreams(self.device)
        readers = ThreadPoolExecutor(self.num_readers, "read")
        decoders = ThreadPoolExecutor(DECODING_THREADS, "decode", streams.enter)
        ahead = deque()
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

    def _read(self, indices):
        return [self._picture(index) for index in indices]

    def _picture(self, index):
        picture = read_picture(self.images, index)
        if picture.reason is None:
            picture.size = plain_jpeg_size(picture.data)
            if picture.size is None:
                picture.decode(crop_with_pil, self.transform)
        return picture

    def _decode(self, reading, streams):
        """A DecodedBatch of what the reading threads have read."""
        pictures = [picture for task in reading for picture in task.result()]
        encoded = [picture for picture in pictures if picture.size is not None]
        groups, decoded = [], []
        for group in groups_of_similar_size(encoded, PIXELS_A_GROUP):
            of_group, padded_windows = self._decode_group(group, streams)
            groups += padded_windows
            decoded += of_group
        cropped = [picture for picture in pictures if picture.crop is not None]
        place = {picture: number for number, picture in enumerate(pictures)}
        size = self.transform.crop_size
        crops = torch.stack([p.crop for p in cropped]) if cropped else torch.empty(0, size, size, 3, dtype=torch.uint8)
        order = torch.tensor([place[picture] for picture in decoded + cropped], dtype=torch.long).argsort()
        batch = DecodedBatch(groups, order.to(self.device), Batch.of(pictures, crops.to(self.device)))
        streams.wait()
        return batch

    def _decode_group(self, group, streams):
        """The pictures that could be decoded, and a list of their (padded windows, CropWindows); PIL has the others."""
        images = decode([picture.data for picture in group], self.device)
        for picture, image in zip(group, images, strict=True):
            if image is None:
                picture.decode(crop_with_pil, self.transform)
        decoded = [picture for picture, image in zip(group, images, strict=True) if image is not None]
        if not decoded:
            return [], []
        windows = crop_windows(torch.tensor([picture.size for picture in decoded]), self.transform)
        padded = cut_and_pad([image for image in images if image is not None], windows)
        windows = windows.to(self.device)
        streams.wait()
        return decoded, [(padded, windows)]

    def _resize(self, decoded, streams):
        streams.hand_over(decoded.device_tensors())
        crops = [resize_windows(*group, self.transform.interpolation) for group in decoded.groups]
        return replace(decoded.batch, crops=torch.cat([*crops, decoded.batch.crops])[decoded.order])


def groups_of_similar_size(pictures, pixels):
    """Cut pictures, smallest first, into groups that have at most so many pixels when all are as large as the largest.

    So a huge picture does not enlarge the padded batch of all the others.
    """
    groups = []
    for picture in sorted(pictures, key=lambda picture: picture.size[0] * picture.size[1]):
        if not groups or (len(groups[-1]) + 1) * picture.size[0] * picture.size[1] > pixels:
            groups.append([])
        groups[-1].append(picture)
    return groups


@cache
def _cuda_streams(device):
    # the same ones in every pass: memory that was used in one is not there for others
    return [torch.cuda.Stream(device) for _ in range(DECODING_THREADS)] if device.type == "cuda" else []


class DecodingStreams:
    """The CUDA streams of the decoding threads; on a CPU there are none, and nothing to do.

    torchvision decodes in a stream that it keeps to itself, into memory that PyTorch regards as free once its last use
    has been queued. So a decoding thread has to ``wait`` for all it has queued before it frees an image.
    """

    def __init__(self, device):
        self.device, self.free, self.handed_over = device, deque(_cuda_streams(device)), deque()

    def enter(self):
        """Make one of the streams that of the calling thread."""
        if self.free:
            torch.cuda.set_stream(self.free.pop())

    def wait(self):
        """Wait until the device has done what the calling thread has queued."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def hand_over(self, tensors):
        """Let the calling thread's stream use tensors of another one that has waited.

        The calling thread waits until at most two of its batches are queued: their memory comes on top of those ahead.
        """
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            for tensor in tensors:
                tensor.record_stream(stream)
            self.handed_over.append(stream.record_event())
            if len(self.handed_over) > 2:
                self.handed_over.popleft().synchronize()
