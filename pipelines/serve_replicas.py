"""The two deployments of the service, and the one module of it that knows Ray Serve.

`ingress` reads, admits, decodes and encodes on CPU threads. `network` runs the weights, on a GPU
where there is one. An ingress asks for weights by content and place (`ServedWeights.model_id`), and
Serve's multiplexing leads it to a replica that has them: exchanging weights is a new catalogue in
the ingress, no replica is told, and what is in work ends with the weights it began with.

Batches are formed inside a replica by the WindowBatcher of bulk runs and not by `serve.batch`:
it takes windows of equal size from all requests in turn, so that a large image doesn't hold up
small ones and no window is over the size of a batch, and it waits for nothing: a batch is what came
while the one before ran. `serve.batch` waits a set time even where nothing else comes, holds whole
images of any size, and splits by weights what it collects.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray.exceptions
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.connect import WORKER_ENVIRONMENT
from pipelines.admission import Admission, Deadline
from pipelines.api_keys import load_keys
from pipelines.catalogue import Catalogue, ServedWeights, load_catalogue, load_model, locations_of
from pipelines.enhance_request import EnhanceService, NetworkUnavailableError, StaleWeightsError
from pipelines.request_record import access_log
from pipelines.serve_app import App, build_app
from pipelines.serve_metrics import IngressMetrics, NetworkMetrics
from pipelines.serve_settings import ServeSettings
from resnet_core.batching import NoLongerWantedError
from resnet_core.cpu_threads import CpuThreads
from resnet_core.enhancer import Enhanced, Enhancer, EnhanceSettings
from resnet_core.errors import ResrayError, WeightsError
from resnet_core.images import Image

INGRESS = "ingress"
NETWORK = "network"
WEIGHTS_KEPT = 32
"""In each network replica: all that are served, and those of before an exchange."""
GPU_BATCH_PX = 2_000_000
CPU_BATCH_PX = 1
ATTEMPTS = 2
"""Of one image, where a replica dies under it."""
WARM_UP_PX = 32
WARM_UP_S = 60.0
LARGE_BYTES = 1_000_000
SPARE_REQUESTS = 1000
"""Beyond those in hand, for answers that take no time."""
SHUTDOWN_MARGIN_S = 5.0

_log = logging.getLogger(__name__)
# Serve's decorators and deployments come without usable types.
_multiplexed: Any = serve.multiplexed(max_num_models_per_replica=WEIGHTS_KEPT)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why there is no image; a value, because errors lose their kind between processes."""

    reason: Literal["late", "stale"]
    detail: str


class NetworkReplica:
    """Runs weights on images of many requests."""

    def __init__(self, settings: ServeSettings) -> None:
        import torch  # noqa: PLC0415  where the network runs

        on_gpu = torch.cuda.is_available()
        self._settings = settings
        self._batch_px = settings.batch_px or (GPU_BATCH_PX if on_gpu else CPU_BATCH_PX)
        self._metrics = NetworkMetrics()
        self._cpu = CpuThreads(compute_threads(settings))
        # They wait for the batcher; what computes are its threads.
        self._threads = ThreadPoolExecutor(settings.max_requests, "image")

    async def enhance(self, image: Image, strength: float, left_s: float) -> Enhanced | Refusal:
        """The better image, by the weights that the call is marked with."""
        deadline = Deadline(left_s)
        try:
            enhancer = await self.load(serve.get_multiplexed_model_id())
        except WeightsError as error:
            return Refusal(reason="stale", detail=str(error))
        gone = False

        def work() -> Enhanced:
            return enhancer.enhance_measured(
                image, strength=strength, wanted=lambda: not gone and deadline.left_s > 0
            )

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except NoLongerWantedError:
            return Refusal(reason="late", detail="the deadline passed")
        finally:
            gone = True

    @_multiplexed
    async def load(self, model_id: str) -> Enhancer:
        """The weights, warm. WeightsError where they have changed."""
        return await asyncio.to_thread(self._load, model_id)

    def _load(self, model_id: str) -> Enhancer:
        settings = EnhanceSettings(
            tile_px=self._settings.tile_px, precision=self._settings.precision
        )
        enhancer = Enhancer(
            load_model(model_id),
            settings,
            batch_px=self._batch_px,
            cpu=self._cpu,
            on_batch=self._metrics.observe,
        )
        enhancer.enhance(_tiny_image())
        return enhancer


class RemoteNetwork:
    """The network's replicas, as an ingress sees them."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def enhance(
        self, weights: ServedWeights, image: Image, *, strength: float, left_s: float
    ) -> Enhanced:
        """See `Network`. An image whose replica died is given to another one, once."""
        deadline, reason = Deadline(left_s), ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = await self._ask(weights, image, strength, deadline.left_s)
            except (ray.exceptions.RayActorError, RayServeException) as error:
                _log.warning("attempt %d on the network: %s", attempt, type(error).__name__)
                reason = type(error).__name__
            else:
                if isinstance(found, Enhanced):
                    return found
                if found.reason == "stale":
                    raise StaleWeightsError(found.detail)
                raise TimeoutError(found.detail)
        raise NetworkUnavailableError(f"the network can't be reached: {reason}")

    async def _ask(
        self, weights: ServedWeights, image: Image, strength: float, left_s: float
    ) -> Enhanced | Refusal:
        marked = self._handle.options(
            multiplexed_model_id=weights.model_id,
            # Through shared memory, where that costs less than a message.
            _by_reference=_is_large(image),
            request_serialization="pickle",
            response_serialization="pickle",
        )
        response = marked.enhance.remote(image, strength, left_s)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


class IngressReplica:
    """Answers HTTP; what is served is its `user_config`."""

    def __init__(self, settings: ServeSettings, network: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._network = RemoteNetwork(network)
        self._keys = load_keys(settings.keys_file, required=settings.require_keys)
        self._catalogue: Catalogue | None = None
        self.refused: str | None = None
        """Why the newest configuration isn't the one that is served."""

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve other weights from now on.

        A first configuration that can't be read is a ResrayError. A later one, or one that no
        replica of the network can load, is refused: an error here would end all replicas, so the
        weights before go on, and /healthz tells.
        """
        try:
            catalogue = await asyncio.to_thread(load_catalogue, locations_of(user_config))
            if self._settings.min_replicas:
                await asyncio.gather(*(self._warm(each) for each in catalogue.served))
        except ResrayError as error:
            if self._catalogue is None:
                raise
            _log.error("the new configuration is refused: %s", error)
            self.refused = str(error)
            return
        self._catalogue, self.refused = catalogue, None

    async def _warm(self, weights: ServedWeights) -> None:
        """A replica loads them before the first request asks for them. WeightsError if it can't,
        but for the first configuration, where there is nothing else to serve."""
        try:
            async with asyncio.timeout(WARM_UP_S):
                await self._network.enhance(weights, _tiny_image(), strength=0, left_s=WARM_UP_S)
        except Exception as error:
            reason = str(error) or type(error).__name__
            told = f"the network can't load the weights {weights.name!r}: {reason}"
            if self._catalogue is not None:
                raise WeightsError(told) from error
            _log.warning("%s", told)

    def __serve_build_asgi_app__(self) -> App:
        metrics, settings = IngressMetrics(), self._settings
        service = EnhanceService(
            settings=settings,
            catalogue=lambda: self.served,
            network=self._network,
            admission=Admission(
                max_requests=settings.max_requests,
                max_pixels=settings.max_queued_pixels,
                on_change=metrics.show_in_hand,
            ),
            threads=ThreadPoolExecutor(codec_threads(settings), "codec"),
        )
        observers = (metrics.observe, access_log(settings.access_log))
        return build_app(
            service, keys=self._keys, observers=observers, refused=lambda: self.refused
        )

    @property
    def served(self) -> Catalogue:
        """What is served now."""
        assert self._catalogue is not None, "Serve configures a replica before it gets requests"
        return self._catalogue


def _is_large(image: Image) -> bool:
    return image.pixels.nbytes > LARGE_BYTES


def _tiny_image() -> Image:
    return Image(pixels=np.zeros((WARM_UP_PX, WARM_UP_PX, 3), np.uint8), format="PNG")


def compute_threads(settings: ServeSettings) -> int:
    """Of one network replica."""
    return settings.threads or max(int(settings.network_cpus), 1)


def codec_threads(settings: ServeSettings) -> int:
    """Of one ingress replica, which may hold no CPU of its own on a laptop."""
    return max(int(settings.ingress_cpus), 1) if settings.ingress_cpus else os.cpu_count() or 1


def application(
    settings: ServeSettings, *, network_class: type[NetworkReplica] = NetworkReplica
) -> serve.Application:
    """Both deployments, bound."""
    finish_s = settings.deadline_s + SHUTDOWN_MARGIN_S
    shared: dict[str, Any] = {
        "graceful_shutdown_timeout_s": finish_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        # A replica goes when the one in its place is ready.
        "max_surge_percent": 100,
        "logging_config": {"enable_access_log": False},
    }
    network: Any = serve.deployment(
        network_class,
        name=NETWORK,
        max_ongoing_requests=settings.max_requests * settings.ingress_replicas,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_requests,
            "upscale_delay_s": settings.upscale_delay_s,
            "downscale_delay_s": settings.downscale_delay_s,
            "metrics_interval_s": min(max(settings.upscale_delay_s / 4, 0.1), 10.0),
            "look_back_period_s": min(max(settings.upscale_delay_s, 1.0), 30.0),
        },
        ray_actor_options=_actor(settings.network_cpus, settings.network_gpus),
        **shared,
    )
    ingress: Any = serve.deployment(
        serve.ingress()(IngressReplica),
        name=INGRESS,
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=settings.max_requests + SPARE_REQUESTS,
        user_config={"weights": list(settings.served)},
        ray_actor_options=_actor(settings.ingress_cpus, 0),
        **shared,
    )
    return ingress.bind(settings, network.bind(settings))


def _actor(cpus: float, gpus: float) -> dict[str, Any]:
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
    }
