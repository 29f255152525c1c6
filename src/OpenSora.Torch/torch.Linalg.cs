using OpenSora.Torch;

namespace TorchSharp;

public static partial class torch
{
    public static partial class linalg
    {
        /// <summary>Eigenvalues of a symmetric matrix, the smallest first, and its eigenvectors, a column each.</summary>
        public static (Tensor, Tensor) eigh(Tensor input, char UPLO = 'L') => Aten.Call2("linalg_eigh", input, UPLO.ToString());
    }
}
