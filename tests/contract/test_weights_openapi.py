"""The bodies of a change of weights, as `/openapi.json` shows them and as the client sends them."""

import pytest
from safetensors.torch import save

from hintwise import AsyncClient
from hintwise.errors import InvalidRequest, NotRetained, VersionConflict
from hintwise.schemas import RollbackRequest, WeightsPath

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_bodies_are_documented_with_examples_that_are_valid(service):
    document = (await service.http.get("/openapi.json")).json()
    put, rollback = document["paths"]["/weights"]["put"], document["paths"]["/weights/rollback"]["post"]
    assert set(put["requestBody"]["content"]) == {"application/octet-stream", "application/json"}
    for operation, schema in ((put, WeightsPath), (rollback, RollbackRequest)):
        content = operation["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{schema.__name__}"}
        assert document["components"]["schemas"][schema.__name__]["additionalProperties"] is False
        schema.model_validate(content["example"])
    needed = {
        (operation["operationId"].partition("_")[0], parameter["name"]): parameter["required"]
        for operation in (put, rollback)
        for parameter in operation["parameters"]
    }
    assert needed == {("put", "If-Match"): True, ("put", "Content-Digest"): False, ("rollback", "If-Match"): False}


async def test_the_client_rolls_back_and_pushes_by_path(start, tmp_path):
    (tmp_path / "pushes").mkdir()
    async with start(weights_path_dirs=str(tmp_path / "pushes")) as service:
        (tmp_path / "pushes" / "policy").write_bytes(save(await service.tensors()))
        async with AsyncClient("http://service", transport=service.http._transport) as client:
            assert (await client.put_weights_from(tmp_path / "pushes" / "policy", if_match=1)).policy_version == 2
            assert (await client.rollback(1, if_match=2)).policy_version == 1
            with pytest.raises(VersionConflict, match="version 1 serves now"):
                await client.rollback(2, if_match=2)
            with pytest.raises(NotRetained, match=r"kept are \[1, 2\]"):
                await client.rollback(7)
            with pytest.raises(InvalidRequest, match="regular file"):
                await client.put_weights_from("/etc/passwd", if_match=1)
