"""Which handler answers which API, and what clients are told of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from takhin_tiered.kafka import refused
from takhin_tiered.kafka.apis import API_VERSIONS, APIS, SASL_AUTHENTICATE, SASL_HANDSHAKE
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.messages.versions import ApiVersion, ApiVersionsRequest, ApiVersionsResponse


def complete(handlers: Mapping[int, Handler], *, with_sasl: bool) -> dict[int, Handler]:
    """With those that refuse to write, and with ApiVersions, which tells of them all and of nothing else.

    SASL has its handlers in each connection.
    """
    known = {**refused.HANDLERS, **handlers}
    sasl = (SASL_HANDSHAKE, SASL_AUTHENTICATE) if with_sasl else ()
    return {**known, API_VERSIONS: _Versions([*known, *sasl, API_VERSIONS])}


class _Versions:
    def __init__(self, keys: Iterable[int]) -> None:
        self._versions = [ApiVersion(key, APIS[key].first, APIS[key].last) for key in sorted(keys)]

    async def __call__(self, request: ApiVersionsRequest, client: Client) -> ApiVersionsResponse:
        if request.client_software_name:
            client.software = f"{request.client_software_name} {request.client_software_version}".strip()
        return ApiVersionsResponse(api_keys=self._versions)
