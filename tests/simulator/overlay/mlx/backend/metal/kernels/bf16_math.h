// In place of MLX's: the shim's functions take bfloat as MLX's overloads do, and give it back.
#pragma once
