using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace OpenSora.Torch;

/// <summary>Tells OpenBLAS, before it is loaded, which kernels the processor can run.</summary>
/// <remarks>
/// OpenBLAS goes by model numbers and takes a processor that is newer than itself for a Pentium 4 (Debian's 0.3.21 does so with Xeons of 2023), whose kernels take
/// many times as long. What a processor can do it says itself. A variable that is set already is left alone.
/// </remarks>
internal static partial class OpenBlas
{
    private const string Variable = "OPENBLAS_CORETYPE";

    /// <summary>Sets the variable that OpenBLAS reads when it is loaded.</summary>
    public static void ChooseKernels()
    {
        // .NET's own copy of the environment is not what native code sees.
        if (OperatingSystem.IsLinux() && Kernels is { } kernels)
            _ = SetVariable(Variable, kernels, overwrite: 0);
    }

    /// <summary>OpenBLAS's name of the newest kernels that this processor can run; null: it chooses by itself.</summary>
    internal static string? Kernels
    {
        get
        {
            if (!Avx2.IsSupported || !Fma.IsSupported)
                return null;
            if (!Avx512F.IsSupported || !Avx512BW.VL.IsSupported || !Avx512DQ.VL.IsSupported || !Avx512CD.IsSupported)
                return "Haswell";
            var (features, _, _, _) = X86Base.CpuId(7, 1);
            var hasBFloat16 = (features & 1 << 5) != 0;
            return hasBFloat16 ? "Cooperlake" : "SkylakeX";
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetVariable(string name, string value, int overwrite);
}
