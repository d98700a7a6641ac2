"""`python FOLDER_OF_THE_PACK lora ...` is `python -m train lora ...` wherever it is called: the nodes that train start this.

ComfyUI's portable Python for Windows finds no module in the folder that it is called in, but those in a folder that it runs.
"""

import os

from train.__main__ import main
from train.interruption import interrupt_by_any_signal

NICENESS = 5  # below ComfyUI's server, which must answer meanwhile

if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    interrupt_by_any_signal()
    main()
