"""python run_recbole_sda.py --model=SASRec --dataset=demo"""

import sys

from recbole_sda.cli import main

if __name__ == "__main__":
    sys.exit(main())
