"""The published few-step LoRAs whose SHA-256 is public: told whatever a file is called.

The digests are those of Hugging Face's file pages as darkshapes/MIR lists them (mir/automata.py), with PCM's kinds by the
guidance that stands there. DMD2's, SDXL-Lightning's and most of Hyper-SD's were found in other repositories as well.
"""

import functools
import hashlib
from pathlib import Path

from . import recipes

# Bytes of the file -> its SHA-256 -> the recipe, and the number of steps that it alone was made for.
PUBLISHED: dict[int, dict[str, tuple[recipes.Recipe, int | None]]] = {
    393_855_224: {"a764e6859b6e04047cd761c08ff0cee96413a8e004c9f07707530cd776b19141": (recipes.LCM, None)},  # SDXL
    134_621_556: {  # SD 1.5
        "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4": (recipes.LCM, None),
        "eaecb24a1cda4411eab67275b1d991071216ac93693e8fa0c9226c9df0386232": (recipes.TCD, None),
    },
    393_854_624: {"2c777bc60abf41d3eb0fe405d23d73c280a020eea5adf97a82a141592c33feba": (recipes.TCD, None)},  # SDXL
    787_359_616: {"a374289e9446d7f14d2037c4b3770756b7b52c292142a691377c3c755010a1bb": (recipes.DMD2, 4)},  # fp32
    787_359_648: {  # SDXL
        "c912df184c5116792d2c604d26c6bc2aa916685f4a793755255cda1c43a3c78a": (recipes.HYPER_ONE_STEP, None),
        "69b25c0187ced301c3603c599c0bc509ac99b8ac34db89a2aecc3d5f77a35187": (recipes.HYPER, 2),
        "12f81a27d00a751a40d68fd15597091896c5a90f3bd632fb6c475607cbdad76e": (recipes.HYPER, 4),
        "ca689190e8c46038550384b5675488526cfe5a40d35f82b27acb75c100f417c1": (recipes.HYPER, 8),
        "55b51334c85061afff5eff7c550b61963c8b8607a5868bbe4f26db49374719b1": (recipes.HYPER_CFG, 8),
        "0b97f447b5878323a28fbe7c51ba7acebd21f4d77552ba77b04b11c8911825b6": (recipes.HYPER_CFG, 12),
    },
    269_127_064: {  # SD 1.5
        "a04fd9a535c1e56d38f7590ee72a13fd5ca0409853b4fff021e5a9482cf1ca3b": (recipes.HYPER_ONE_STEP, None),
        "2f26dcc1d883feb07557a552315baae2ca2a04ac08556b08a355a244547e8c3a": (recipes.HYPER, 2),
        "c5dd058616461ed5053e2b14eec4dbe3fa0eea3b13688642f6d6c80ea2ba5958": (recipes.HYPER, 4),
        "91fc3186236e956d64dbb4357f2e120c69b968b78af7d2db9884a5ca74d3cd13": (recipes.HYPER, 8),
        "f6123d5b950d5250ab6c33600e27f4dcf71b3099ebf888685e01e9e8117ce482": (recipes.HYPER_CFG, 8),
        "64b98437383537cd968fda6f87a05c33160ece9c79ff4757949a1e212ff78361": (recipes.HYPER_CFG, 12),
    },
    371_758_976: {"afe2ca6e27c4c6087f50ef42772c45d7b0efbc471b76e422492403f9cae724d7": (recipes.FLASH, 4)},  # SDXL
    393_854_592: {  # SDXL in fp16
        "b3d9173815a4b595991c3a7a0e0e63ad821080f314a0b2a3cc31ecd7fcf2cbb8": (recipes.DMD2, 4),
        "bf56cf2657efb15e465d81402ed481d1e11c4677e4bcce1bc11fe71ad8506b79": (recipes.LIGHTNING, 4),
        "242cbe4695fe3f2e248faa71cf53f2ccbf248a316973e4b2f38ab9e34f35a5ab": (recipes.PCM, 2),
        "e1f600491bb8e0cd94f41144321e44fdb2cb346447f31e71f6e53f1c24cccfbf": (recipes.PCM, 2),
        "d0bf40a7f280829195563486bec7253f043a06b1f218602b20901c367641023e": (recipes.PCM, 4),
        "212150d7953627fb89df99aad579d6763645a1cb2ef26b19fee8b398d5e5ff4d": (recipes.PCM, 4),
        "e80fcf46d15f4d3821d3d9611bdb3022a4a8b647b2536833b168d317a91e4f74": (recipes.PCM, 8),
        "56ed9dc9f51f4bb0d6172e13b7947f215c347fc0da341c8951b2c12b9507d09e": (recipes.PCM, 8),
        "13fb038025ce9dad93b8ee1b67fc81bac8affb59a77b67d408d286e0b0365a1d": (recipes.PCM, 16),
        "3442eff271aa3b60a094fd6f9169d03e49e4051044a974f6fcf690507959191f": (recipes.PCM, 16),
        "a85cf70ac16ed42011630a5cd6b5927722cb7c40a2107eff85e2670f9a38c893": (recipes.PCM_NORMAL_CFG, 4),
        "9f7f13bb019925eacd89aeff678e4fd831f7b60245b986855dff6634aee4eba9": (recipes.PCM_NORMAL_CFG, 4),
        "3b9c970a3e4c0e182931e71b3f769c1956f16c6b06db98b4d67236790d4d0b1d": (recipes.PCM_NORMAL_CFG, 8),
        "7f04ba8911b4c25ef2c7cbf74abcb6daa3b4f0e4bc6a03896bdae7601f2f180b": (recipes.PCM_NORMAL_CFG, 8),
        "04ea827435d5750e63d113dc509174b4f6e8a069ff8f91970c3d25299c10b1f8": (recipes.PCM_NORMAL_CFG, 16),
        "7eb353b2abcaabab6251ba4e17d6cbe2e763feb0674b0f950555552212b44621": (recipes.PCM_NORMAL_CFG, 16),
    },
    134_621_524: {  # SD 1.5
        "4c5f27a727d12146de4b1d987cee3343bca89b085d12b03c45297af05ce88ef4": (recipes.PCM, 2),
        "29278bc86274fdfc840961e3c250758ff5e2dc4666d940f103e78630d5b879d3": (recipes.PCM, 4),
        "41a7f0b966d18f643d16c4401f0b5ef6b9ef7362c20e17128322f17874709107": (recipes.PCM, 8),
        "c7ac2fa3df3a5b7080ebe63f259ab13630014f104c93c3c706d77b05cc48506b": (recipes.PCM, 16),
        "fa6acb94f11dba3bf4120af5a12e3c88cd2b9572d43ec1a6fb04eede9f32829e": (recipes.PCM_NORMAL_CFG, 4),
        "bff3d4499718b61455b0757b5f8d98fe23e73a768b538c82ecf91c693b69dbcd": (recipes.PCM_NORMAL_CFG, 8),
        "8f605ffde3616592deb37ed8c6bacb83fe98963c1fd0883c2a4f93787098aa45": (recipes.PCM_NORMAL_CFG, 16),
    },
}


def recipe_of(path: Path) -> recipes.Recipe | None:
    """The recipe of a published file, by its contents. Nothing is read where no published file has its size."""
    stat = path.stat()
    of_size = PUBLISHED.get(stat.st_size)
    if of_size is None:
        return None
    recipe, steps = of_size.get(sha256(path, stat.st_mtime_ns), (None, None))
    return recipe._replace(steps=(steps,)) if steps else recipe


@functools.lru_cache(maxsize=64)
def sha256(path: Path, mtime_ns: int) -> str:
    """Of a file that was last changed at mtime_ns."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
