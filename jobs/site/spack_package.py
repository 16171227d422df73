# Not tried: no Spack could be had where this project is tested. In a repository of packages of your own:
#
#     mkdir -p REPO/packages/py_qafel_mpi && cp jobs/site/spack_package.py REPO/packages/py_qafel_mpi/package.py
#     spack dev-build py-qafel-mpi@0.2.0        # in the folder of qafel_mpi
from spack.package import *
from spack_repo.builtin.build_systems.python import PythonPackage


class PyQafelMpi(PythonPackage):
    """An MPI benchmark suite for asynchronous federated learning with quantized messages (QAFeL)."""

    homepage = "https://arxiv.org/abs/2308.00263"

    license("MIT")

    version("0.2.0")

    variant("analysis", default=True, description="Tables, figures and reports")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@77:", type="build")
    depends_on("mpi", type="run")
    depends_on("py-torch@2.6:", type=("build", "run"))
    depends_on("py-numpy@2:", type=("build", "run"))
    depends_on("py-mpi4py@4.1:", type=("build", "run"))
    depends_on("py-h5py@3.11: ~mpi", type=("build", "run"))
    depends_on("py-numba@0.61:", type=("build", "run"))
    depends_on("py-pydantic@2.7:", type=("build", "run"))
    depends_on("py-typer@0.12:", type=("build", "run"))
    depends_on("py-rich@13.7:", type=("build", "run"))
    depends_on("py-psutil@5.9:", type=("build", "run"))
    depends_on("py-fastcrc@0.4:", type=("build", "run"))
    depends_on("py-zstandard@0.22:", type=("build", "run"))
    depends_on("py-scikit-learn@1.4:", type=("build", "run"))
    depends_on("py-pillow@10:", type=("build", "run"))
    depends_on("py-pandas@2.2:", type=("build", "run"))
    with when("+analysis"):
        depends_on("py-scipy@1.12:", type=("build", "run"))
        depends_on("py-matplotlib@3.8:", type=("build", "run"))
        depends_on("py-plotly@5.20:", type=("build", "run"))
        depends_on("py-pyarrow@15:", type=("build", "run"))
