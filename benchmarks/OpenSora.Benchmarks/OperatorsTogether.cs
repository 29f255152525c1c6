using OpenSora.Models;

namespace OpenSora.Benchmarks;

internal static class OperatorsTogether
{
    public static void Run() { }
}
