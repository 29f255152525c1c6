using System.Reflection;
using Xunit.v3;

[assembly: OpenSora.Tests.Settled]

namespace OpenSora.Tests;

/// <summary>Runs the finalizers before each test, so that tensors of earlier tests do not disappear while a test counts live tensors.</summary>
[AttributeUsage(AttributeTargets.Assembly)]
internal sealed class SettledAttribute : BeforeAfterTestAttribute
{
    public override void Before(MethodInfo methodUnderTest, IXunitTest test)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
