using System.Reflection;
using Xunit.v3;

[assembly: OpenSora.TorchTests.Settled]

namespace OpenSora.TorchTests;

/// <summary>Before each test: what earlier ones left to the finalizer goes, so that it cannot vanish while a test counts live tensors.</summary>
[AttributeUsage(AttributeTargets.Assembly)]
internal sealed class SettledAttribute : BeforeAfterTestAttribute
{
    public override void Before(MethodInfo methodUnderTest, IXunitTest test)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
