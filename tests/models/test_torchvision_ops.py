import subprocess
import sys


def test_timm_imports_and_the_schemas_are_declared_at_most_once() -> None:
    code = "from pmq.models.torchvision_ops import ensure_torchvision as e; a = e(); assert e() == a; import timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_other_failures_are_not_hidden() -> None:
    code = (
        "import sys, importlib\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchvision': raise RuntimeError('something else')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "from pmq.models.torchvision_ops import ensure_torchvision\n"
        "ensure_torchvision()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "something else" in done.stderr
